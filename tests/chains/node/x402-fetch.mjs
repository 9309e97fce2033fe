// The unmodified @x402/fetch on a route that is paid for: one call. Arguments: server URL, private key.
import { ExactEvmScheme } from '@x402/evm'
import { wrapFetchWithPayment, x402Client } from '@x402/fetch'
import { privateKeyToAccount } from 'viem/accounts'

const [url, key] = process.argv.slice(2)
const payer = new x402Client().register('eip155:*', new ExactEvmScheme(privateKeyToAccount(key)))
payer.setSpendControls?.({ maxAmountPerPayment: '$20' })
const requests = []
const counted = async (...call) => {
  const response = await fetch(...call)
  requests.push(response.status)
  return response
}
const paid = wrapFetchWithPayment(counted, payer)
const response = await paid(`${url}/api/v1/embeddings`, {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ model: 'all-MiniLM-L6-v2', input: 'Why is the sky blue?' }),
})
const body = await response.json()
const settled = response.headers.get('payment-response')
console.log(
  JSON.stringify({
    requests,
    dims: body.data?.[0].embedding.length,
    error: body.error,
    remaining: response.headers.get('x-balance-remaining'),
    settled: settled && JSON.parse(atob(settled)),
  }),
)
