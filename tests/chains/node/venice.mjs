// The unmodified venice-x402-client: prints one JSON object. Arguments: server URL, private key, command.
import client from 'venice-x402-client'

const { VeniceClient } = client
const [url, key, command] = process.argv.slice(2)
const input = { model: 'all-MiniLM-L6-v2', input: 'Why is the sky blue?' }
const venice = new VeniceClient(key, {
  apiUrl: url,
  autoTopUp: command === 'auto' ? { enabled: true, amount: 10 } : undefined,
})
const requests = []
const realFetch = globalThis.fetch
globalThis.fetch = async (...call) => {
  const response = await realFetch(...call)
  requests.push(`${new URL(call[0].url ?? call[0]).pathname} ${response.status}`)
  return response
}

const out = {}
try {
  if (command === 'all') {
    await venice.topUp(10)
    out.afterTopUp = venice.balance
  }
  const answer = await venice.embeddings(input)
  out.dims = answer.data[0].embedding.length
  out.tokens = answer.usage.prompt_tokens
  out.remaining = venice.balance
  out.balance = await venice.getBalance()
  out.transactions = await venice.getTransactions({ limit: 10 })
} catch (error) {
  out.error = { code: error.code, message: error.message, details: error.details }
}
out.requests = requests
console.log(JSON.stringify(out))
