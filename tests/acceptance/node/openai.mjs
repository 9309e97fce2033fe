// One call of the openai package, as read from standard input: {"request": {...}, "options": {...}}.
// Prints {"data", "usage"} or {"error"}: what a program that uses the package would see.
import { text } from "node:stream/consumers";
import OpenAI from "openai";

const { request, options } = JSON.parse(await text(process.stdin));
const client = new OpenAI(options);
try {
  const { data, model, usage } = await client.embeddings.create(request);
  console.log(JSON.stringify({ data, model, usage }));
} catch (error) {
  if (!(error instanceof OpenAI.APIError)) throw error;
  const { status, code, type, param, message, requestID } = error;
  console.log(JSON.stringify({ error: { class: error.constructor.name, status, code, type, param, message, requestID } }));
}
