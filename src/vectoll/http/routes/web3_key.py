"""GET and POST /api_keys/generate_web3_key: a wallet makes itself an API key."""

from decimal import Decimal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from vectoll.domain.errors import NotFound
from vectoll.domain.identity import new_secret
from vectoll.domain.limits import RateLimit
from vectoll.http import schemas_account as schemas
from vectoll.http.body import decode_json, read_json_body
from vectoll.http.entry import admit_stranger
from vectoll.http.new_key import new_key
from vectoll.http.responses import json_response
from vectoll.http.routes.api_keys import MAX_BODY_BYTES, created, require_room
from vectoll.http.schemas_x402 import GenerateWeb3KeyRequest, Web3Challenge, Web3ChallengeResponse
from vectoll.http.services import WalletServices, services_of

MINTS = RateLimit(20)
"""Keys per client address and minute: a fresh wallet costs nothing, and its account and key stay for good."""
MINTS_LIMIT = f"{MINTS.amount} API keys of wallets per minute from one address"

_GENERATE = msgspec.json.Decoder(GenerateWeb3KeyRequest, float_hook=Decimal)


async def get_challenge(request: Request) -> Response:
    """A text for the wallet to sign."""
    wallets = _wallets(request)
    permit = await admit_stranger(request)
    with permit:
        await permit.take_request()
        return json_response(Web3ChallengeResponse(Web3Challenge(wallets.keys.challenge())))


async def generate_key(request: Request) -> Response:
    """A key that spends the credit of the wallet that signed. Its secret is in this answer and nowhere else."""
    wallets, services = _wallets(request), services_of(request)
    permit = await admit_stranger(request)
    with permit:
        await permit.take_request()
        wanted = decode_json(await read_json_body(request, MAX_BODY_BYTES), _GENERATE)
        limiter = services.admission.limiter
        standing = await limiter.peek(MINTS, "wallet-keys", permit.caller)
        if not standing.remaining:
            raise standing.refusal(MINTS_LIMIT)  # before a nonce is used up
        principal = await wallets.keys.redeem(wanted.address, wanted.token, wanted.signature, permit.caller)
        secret = new_secret()
        key = new_key(wanted, principal, secret, services.clock.now())
        await require_room(services, principal)
        minted = await limiter.hit(MINTS, "wallet-keys", permit.caller)
        minted.check(MINTS_LIMIT)
        await services.keys.add(key)
        return json_response(schemas.CreateApiKeyResponse(created(key, secret)))


def _wallets(request: Request) -> WalletServices:
    wallets = services_of(request).wallets
    if wallets is None:
        raise NotFound("Wallets are not enabled on this server.")
    return wallets
