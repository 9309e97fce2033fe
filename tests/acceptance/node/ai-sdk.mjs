// The Vercel AI SDK's embedMany over @ai-sdk/openai-compatible: {"baseURL", "apiKey", "model", "values"} on
// standard input. Prints {"embeddings", "usage"} or {"error"}.
import { text } from "node:stream/consumers";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany } from "ai";

const { baseURL, apiKey, model, values } = JSON.parse(await text(process.stdin));
const provider = createOpenAICompatible({ name: "vectoll", baseURL, apiKey });
try {
  const { embeddings, usage } = await embedMany({ model: provider.embeddingModel(model), values, maxRetries: 0 });
  console.log(JSON.stringify({ embeddings, usage }));
} catch (error) {
  if (!APICallError.isInstance(error)) throw error;
  const { statusCode, message, isRetryable } = error;
  console.log(JSON.stringify({ error: { statusCode, message, isRetryable } }));
}
