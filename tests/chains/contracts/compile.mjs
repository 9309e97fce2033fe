// Compiles Token.sol into artifact.json. Needs the npm package `solc`; run in this folder after changing the source.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const solc = createRequire(process.env.SOLC_FROM ?? import.meta.url)('solc')
const input = {
  language: 'Solidity',
  sources: { 'Token.sol': { content: readFileSync('Token.sol', 'utf8') } },
  settings: {
    evmVersion: 'paris',
    optimizer: { enabled: true, runs: 200 },
    metadata: { bytecodeHash: 'none', appendCBOR: false },
    outputSelection: { '*': { '*': ['evm.bytecode.object', 'evm.deployedBytecode.object', 'evm.methodIdentifiers'] } },
  },
}
const output = JSON.parse(solc.compile(JSON.stringify(input)))
for (const error of output.errors ?? []) {
  if (error.severity === 'error') throw new Error(error.formattedMessage)
}
const artifact = { compiler: solc.version(), contracts: {} }
for (const [name, contract] of Object.entries(output.contracts['Token.sol'])) {
  const { bytecode, deployedBytecode, methodIdentifiers } = contract.evm
  artifact.contracts[name] = {
    creation: '0x' + bytecode.object,
    runtime: '0x' + deployedBytecode.object,
    selectors: methodIdentifiers,
  }
}
writeFileSync('artifact.json', JSON.stringify(artifact, null, 1) + '\n')
