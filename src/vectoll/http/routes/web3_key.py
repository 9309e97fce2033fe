"""GET and POST /api_keys/generate_web3_key: a wallet makes itself an API key."""

from decimal import Decimal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from vectoll.domain.errors import NotFound
from vectoll.domain.identity import new_secret
from vectoll.http import schemas_account as schemas
from vectoll.http.body import decode_json, read_json_body
from vectoll.http.entry import admit_stranger
from vectoll.http.new_key import new_key
from vectoll.http.responses import json_response
from vectoll.http.routes.api_keys import (
    FREE_CREATIONS,
    FREE_CREATIONS_LIMIT,
    MAX_BODY_BYTES,
    created,
    require_room,
    take_free_creation,
)
from vectoll.http.schemas_x402 import GenerateWeb3KeyRequest, Web3Challenge, Web3ChallengeResponse
from vectoll.http.services import WalletServices, services_of

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
        standing = await limiter.peek(FREE_CREATIONS, "wallet-keys", permit.caller.key)
        if not standing.remaining:
            raise standing.refusal(FREE_CREATIONS_LIMIT)  # before a nonce is used up
        principal = await wallets.keys.redeem(
            wanted.address, wanted.token, wanted.signature, permit.caller.key
        )
        secret = new_secret()
        key = new_key(wanted, principal, secret, services.clock.now())
        await require_room(services, principal)
        await take_free_creation(services, permit.caller.key)
        await services.keys.add(key)
        return json_response(schemas.CreateApiKeyResponse(created(key, secret)))


def _wallets(request: Request) -> WalletServices:
    wallets = services_of(request).wallets
    if wallets is None:
        raise NotFound("Wallets are not enabled on this server.")
    return wallets
