"""The bodies of 402 answers and of /x402, as types. Names are the wire's own, so most are in camel case."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from vectoll.core.signin import MAX_SIGNATURE_LENGTH
from vectoll.http.schemas_account import CreateApiKeyRequest


class Resource(Struct):
    """What a payment would give access to."""

    url: str
    description: str
    mimeType: str = "application/json"


class Requirement(Struct):
    """One way to pay; ``amount`` is the least, in base units of USDC."""

    scheme: Literal["exact"]
    network: str
    asset: str
    amount: str
    payTo: str
    maxTimeoutSeconds: int
    extra: dict[str, str]


class ApiKeyOption(Struct):
    """How to come with an API key."""

    header: str
    getKey: str
    docs: str


class WalletOption(Struct):
    """How to come with a wallet."""

    header: str
    legacyHeader: str
    topUp: str
    docs: str


class AuthOptions(Struct):
    """Both ways in."""

    apiKey: ApiKeyOption
    x402Wallet: WalletOption


class Discovery(Struct):
    """402 for a caller without credentials."""

    x402Version: int
    error: str
    resource: Resource
    accepts: list[Requirement]
    extensions: dict[str, Any]
    authOptions: AuthOptions


class PaymentRequiredHeader(Struct):
    """What the PAYMENT-REQUIRED header holds, in base64: x402's own object."""

    x402Version: int
    error: str
    resource: Resource
    accepts: list[Requirement]
    extensions: dict[str, Any]


class TopUpDiscovery(Struct):
    """402 of POST /x402/top-up without a payment."""

    x402Version: int
    accepts: list[Requirement]


class ChallengeInfo(Struct):
    """What a wallet is to sign."""

    domain: str
    uri: str
    version: str
    nonce: str
    issuedAt: str
    expirationTime: str
    statement: str


class SupportedChain(Struct):
    """A chain whose wallets may sign in, and how they sign."""

    chainId: str
    type: Literal["eip191", "eip1271", "ed25519"]


class Challenge(Struct):
    """A fresh sign-in challenge. Nonces of the client's own are as good."""

    info: ChallengeInfo
    supportedChains: list[SupportedChain]


class TopUpInstructions(Struct):
    """How to top up, in words, and the first way to pay in short."""

    step1: str
    step2: str
    step3: str
    receiverWallet: str
    tokenAddress: str
    tokenDecimals: int
    network: str
    minimumAmountUsd: Decimal


class WalletPaymentRequired(Struct):
    """402 for a signed-in wallet with too little credit."""

    message: str
    currentBalanceUsd: Decimal
    minimumBalanceUsd: Decimal
    description: str
    suggestedTopUpUsd: Decimal
    minimumTopUpUsd: Decimal
    supportedChains: list[str]
    topUpInstructions: TopUpInstructions
    siwxChallenge: Challenge
    error: Literal["Payment required"] = "Payment required"
    code: Literal["PAYMENT_REQUIRED"] = "PAYMENT_REQUIRED"
    reason: Literal["insufficient_balance"] = "insufficient_balance"
    supportedTokens: list[str] = field(default_factory=lambda: ["USDC"])


class PaymentError(Struct, omit_defaults=True):
    """What /x402/top-up answers when it refuses a payment: ``error`` is the code."""

    error: str
    message: str
    details: dict[str, str] | None = None


class TopUpResult(Struct, kw_only=True):
    """Who was credited with what. A payment that comes again from another client brings no balance, unless its payer
    signs in, too.
    """

    walletAddress: str
    amountCredited: Decimal
    newBalance: Decimal | UnsetType = UNSET
    paymentId: str


class TopUpResponse(Struct):
    """200 of POST /x402/top-up."""

    data: TopUpResult
    success: bool = True


class Settlement(Struct):
    """What the PAYMENT-RESPONSE header holds, in base64."""

    success: bool
    network: str
    payer: str
    transaction: str


class WalletBalance(Struct):
    """A wallet's credit."""

    walletAddress: str
    balanceUsd: Decimal
    canConsume: bool
    minimumTopUpUsd: Decimal
    suggestedTopUpUsd: Decimal
    diemBalanceUsd: Decimal | UnsetType = UNSET


class WalletBalanceResponse(Struct):
    """The answer of GET /x402/balance/{walletAddress}."""

    data: WalletBalance
    success: bool = True


class WalletTransaction(Struct):
    """One entry of a wallet's history; ``amount`` is negative where credit was spent."""

    id: str
    amount: Decimal
    balanceAfter: Decimal
    type: str
    createdAt: str
    requestId: str | None
    modelId: str | None


class Pagination(Struct):
    """Where a page stands."""

    limit: Annotated[int, Meta(ge=1, le=100)]
    offset: Annotated[int, Meta(ge=0)]
    hasMore: bool


class WalletTransactions(Struct):
    """A page of a wallet's history, newest first."""

    walletAddress: str
    currentBalance: Decimal
    transactions: list[WalletTransaction]
    pagination: Pagination


class WalletTransactionsResponse(Struct):
    """The answer of GET /x402/transactions/{walletAddress}."""

    data: WalletTransactions
    success: bool = True


class GenerateWeb3KeyRequest(CreateApiKeyRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /api_keys/generate_web3_key."""

    address: Annotated[str, Meta(min_length=32, max_length=44)]
    signature: Annotated[str, Meta(min_length=1, max_length=MAX_SIGNATURE_LENGTH)]
    token: Annotated[str, Meta(min_length=1, max_length=512)]
    description: Annotated[str, Meta(max_length=64)] = "Web3 API Key"


class Web3Challenge(Struct):
    """What the wallet is to sign."""

    token: str


class Web3ChallengeResponse(Struct):
    """The answer of GET /api_keys/generate_web3_key."""

    data: Web3Challenge
    success: bool = True
