// The script that the spec prints, word for word but for the domain. Arguments: server URL, private key.
import { Wallet } from 'ethers'
import { SiweMessage } from 'siwe'

const [url, PRIVATE_KEY] = process.argv.slice(2)
const { hostname } = new URL(url)
const wallet = new Wallet(PRIVATE_KEY)
const msg = new SiweMessage({ domain: hostname, address: wallet.address, statement: 'Sign in to Venice API', uri: url, version: '1', chainId: 8453, nonce: crypto.randomUUID().replace(/-/g, '').slice(0, 16), issuedAt: new Date().toISOString(), expirationTime: new Date(Date.now() + 600000).toISOString() })
const signature = await wallet.signMessage(msg.prepareMessage())
const header = btoa(JSON.stringify({ address: wallet.address, message: msg.prepareMessage(), signature, timestamp: Date.now(), chainId: 8453 }))

const answer = async () => {
  const response = await fetch(`${url}/api/v1/x402/balance/${wallet.address}`, { headers: { 'SIGN-IN-WITH-X': header } })
  return { status: response.status, body: await response.json() }
}
console.log(JSON.stringify({ first: await answer(), again: await answer() }))
