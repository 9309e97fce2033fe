// The unmodified @x402/fetch with its sign-in extension, for EVM and Solana. Arguments: server URL, EVM key, Solana pair.
import { createSIWxClientExtension } from '@x402/extensions/sign-in-with-x'
import { wrapFetchWithPayment, x402Client } from '@x402/fetch'
import { ExactEvmScheme } from '@x402/evm'
import { createKeyPairSignerFromBytes } from '@solana/kit'
import { privateKeyToAccount } from 'viem/accounts'

const [url, evmKey, solanaPair] = process.argv.slice(2)
const signers = {
  evm: privateKeyToAccount(evmKey),
  solana: await createKeyPairSignerFromBytes(Uint8Array.from(Buffer.from(solanaPair, 'hex'))),
}
const out = {}
for (const [name, signer] of Object.entries(signers)) {
  const client = new x402Client().register('eip155:*', new ExactEvmScheme(signers.evm))
  client.registerExtension(createSIWxClientExtension({ signers: [signer] }))
  const statuses = []
  const counted = async (...call) => {
    const response = await fetch(...call)
    statuses.push(response.status)
    return response
  }
  const paid = wrapFetchWithPayment(counted, client)
  const response = await paid(`${url}/api/v1/embeddings`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'all-MiniLM-L6-v2', input: 'hello' }),
  })
  const body = await response.json()
  out[name] = { statuses, dims: body.data?.[0].embedding.length, error: body.error, code: body.code }
}
console.log(JSON.stringify(out))
