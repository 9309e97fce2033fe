"""Asking for payment: the three 402s and the PAYMENT-REQUIRED header, from this server's own settings."""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from vectoll.domain.instants import format_instant
from vectoll.domain.money import Amount, to_decimal
from vectoll.domain.payments import (
    MAX_TIMEOUT_S,
    MIN_TOP_UP,
    MIN_WALLET_BALANCE,
    SUGGESTED_TOP_UP,
    USDC_DECIMALS,
    Intent,
    PaymentOption,
    usdc_base_units,
)
from vectoll.domain.siwx import MAX_AGE, SIGNATURE_TYPES
from vectoll.domain.wallets import Family
from vectoll.http.responses import json_bytes
from vectoll.http.schemas_x402 import (
    ApiKeyOption,
    AuthOptions,
    Challenge,
    ChallengeInfo,
    Discovery,
    PaymentRequiredHeader,
    Requirement,
    Resource,
    Settlement,
    SupportedChain,
    TopUpDiscovery,
    TopUpInstructions,
    WalletOption,
    WalletPaymentRequired,
)

EXTENSION = "sign-in-with-x"
TOP_UP_PATH = "/api/v1/x402/top-up"
_DESCRIPTION = "vectoll embeddings"
_STATEMENT = "Sign in to vectoll"
_SHORT_NAMES = {Family.EVM: "base", Family.SOLANA: "solana"}


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """What this server asks to be paid, and where. ``public_url`` ends in no slash; ``options`` are by preference."""

    public_url: str
    options: Sequence[PaymentOption]

    @property
    def networks(self) -> frozenset[str]:
        """Where payments are looked for, by CAIP-2 id."""
        return frozenset(option.network for option in self.options)

    @property
    def top_up_url(self) -> str:
        """Where payments go."""
        return self.public_url + TOP_UP_PATH

    def discovery(self, path: str, now: datetime) -> Discovery:
        """For a caller without credentials."""
        return Discovery(
            x402Version=2,
            error="Payment required",
            resource=self._resource(path),
            accepts=self.requirements(),
            extensions=self._extensions(path, now),
            authOptions=AuthOptions(
                apiKey=ApiKeyOption(
                    header="Authorization: Bearer YOUR_API_KEY",
                    getKey=f"{self.public_url}/api/v1/api_keys/generate_web3_key",
                    docs=f"{self.public_url}/docs",
                ),
                x402Wallet=WalletOption(
                    header="SIGN-IN-WITH-X",
                    legacyHeader="X-Sign-In-With-X",
                    topUp=f"POST {self.top_up_url}",
                    docs=f"{self.public_url}/docs",
                ),
            ),
        )

    def wallet_payment_required(
        self, path: str, now: datetime, balance: Amount, message: str
    ) -> WalletPaymentRequired:
        """For a signed-in wallet whose credit does not suffice."""
        first = self.options[0]
        return WalletPaymentRequired(
            message=message,
            currentBalanceUsd=to_decimal(balance),
            minimumBalanceUsd=to_decimal(MIN_WALLET_BALANCE),
            description=_DESCRIPTION,
            suggestedTopUpUsd=to_decimal(SUGGESTED_TOP_UP),
            minimumTopUpUsd=to_decimal(MIN_TOP_UP),
            supportedChains=[_SHORT_NAMES[option.family] for option in self.options],
            topUpInstructions=TopUpInstructions(
                step1=f"POST {self.top_up_url} without a payment header to get the payment requirements",
                step2="Choose one of accepts and sign a USDC transfer for it with an x402 SDK",
                step3=f"POST {self.top_up_url} with the signed payment in the PAYMENT-SIGNATURE header",
                receiverWallet=first.pay_to,
                tokenAddress=first.asset,
                tokenDecimals=USDC_DECIMALS,
                network=first.network,
                minimumAmountUsd=to_decimal(MIN_TOP_UP),
            ),
            siwxChallenge=self.challenge(path, now),
        )

    def top_up_discovery(self) -> TopUpDiscovery:
        """For POST /x402/top-up without a payment."""
        return TopUpDiscovery(2, self.requirements())

    def header(self, path: str, now: datetime) -> str:
        """The PAYMENT-REQUIRED header: stock x402 clients read nothing else."""
        body = PaymentRequiredHeader(
            x402Version=2,
            error="Payment required",
            resource=self._resource(path),
            accepts=self.requirements(),
            extensions=self._extensions(path, now),
        )
        return base64.b64encode(json_bytes(body)).decode()

    def requirements(self) -> list[Requirement]:
        """The ``accepts`` entries. The amount is the least that is taken: a payment may be larger."""
        return [
            Requirement(
                scheme="exact",
                network=option.network,
                asset=option.asset,
                amount=str(usdc_base_units(MIN_TOP_UP)),
                payTo=option.pay_to,
                maxTimeoutSeconds=MAX_TIMEOUT_S,
                extra=dict(option.extra),
            )
            for option in self.options
        ]

    def challenge(self, path: str, now: datetime) -> Challenge:
        """A sign-in challenge bound to the URL that was called: clients refuse any other."""
        return Challenge(
            info=ChallengeInfo(
                domain=urlsplit(self.public_url).netloc,
                uri=self.public_url + path,
                version="1",
                nonce=secrets.token_hex(16),
                issuedAt=format_instant(now),
                expirationTime=format_instant(now + MAX_AGE),
                statement=_STATEMENT,
            ),
            supportedChains=[
                SupportedChain(option.network, kind.value)
                for option in self.options
                for kind in SIGNATURE_TYPES[option.family]
            ],
        )

    def _resource(self, path: str) -> Resource:
        return Resource(self.public_url + path, _DESCRIPTION)

    def _extensions(self, path: str, now: datetime) -> dict[str, Any]:
        challenge: dict[str, Any] = msgspec.to_builtins(self.challenge(path, now))
        return {EXTENSION: challenge | {"schema": _SIGN_IN_SCHEMA}}


def settlement_header(intent: Intent) -> str:
    """The PAYMENT-RESPONSE header of a credited payment."""
    body = Settlement(success=True, network=intent.network, payer=intent.payer, transaction=intent.tx or "")
    return base64.b64encode(json_bytes(body)).decode()


_TEXT = {"type": "string"}
_REQUIRED = ("domain", "address", "uri", "version", "chainId", "type", "nonce", "issuedAt", "signature")
_OPTIONAL = ("statement", "expirationTime", "notBefore", "requestId")
_SIGN_IN_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": dict.fromkeys((*_REQUIRED, *_OPTIONAL), _TEXT)
    | {"resources": {"type": "array", "items": _TEXT}},
    "required": list(_REQUIRED),
}
"""The sign-in payload's own schema, as the extension asks for it."""
