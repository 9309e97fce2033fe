"""The first start: a development key with credit, and what to paste into a terminal."""

import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from vectoll.domain.errors import Unusable
from vectoll.domain.identity import ApiKey, digest_of, new_secret
from vectoll.domain.ids import AccountId, ModelId, TransferId
from vectoll.domain.ledger import Transfer, TransferCode, system_account
from vectoll.domain.money import usd
from vectoll.ports.clock import Clock
from vectoll.ports.keys import KeyStore
from vectoll.ports.ledger import Ledger

KEY_FILE = "development-key"
ACCOUNT = AccountId("acct_development")
CREDIT = usd("5")


def prepare_development_key(data_dir: Path, *, is_first_start: bool) -> str | None:
    """The secret of the development key: made before there is a ledger, and kept in a file for later starts.

    None where an operator made keys of their own first, or removed the file. Raises ConfigurationError.
    """
    path = data_dir / KEY_FILE
    try:
        if path.exists():
            return path.read_text().strip() or None
        if not is_first_start:
            return None
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = new_secret()
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"{secret}\n")
    except OSError as error:
        raise Unusable(f"cannot use {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unusable(f"{path} does not hold a key") from None
    return secret


async def open_development_account(secret: str, keys: KeyStore, ledger: Ledger, clock: Clock) -> bool:
    """Store the key and its credit, once, also when an earlier start was cut short. Whether the key can be used."""
    now = clock.now()
    key = await keys.by_digest(digest_of(secret))
    if key is None:
        key = ApiKey.of_secret(secret, ACCOUNT, "development", now)
        await ledger.post(
            Transfer(
                id=TransferId("credit_development"),
                debit=system_account("credit", now),
                credit=ACCOUNT,
                amount=CREDIT,
                code=TransferCode.CREDIT,
                created_at=now,
                note="first start",
            )
        )
        await keys.add(key)
    return key.is_active(now)


def welcome(
    base_url: str, secret: str | None, models: Iterable[ModelId], why_none: str | None, *, colors: bool
) -> str:
    """What is printed when the server is ready. ``models`` are those that answer now, else ``why_none`` says why."""
    serving = list(models)
    bold, plain = ("\033[1m", "\033[0m") if colors else ("", "")
    state = f"is ready, serving {', '.join(serving)}" if serving else f"runs, and serves no model: {why_none}"
    lines = [
        f"vectoll {state}.",
        "",
        f"  {bold}base URL{plain}   {base_url}/api/v1   (OpenAI clients: {base_url}/v1)",
        f"  {bold}API key{plain}    {secret or 'make one: vectoll keys create --name NAME --credit-usd 5'}",
        "",
        _curl(base_url, secret, serving[0]) if serving else "Every model and its state: vectoll models list",
        "",
    ]
    return "\n".join(lines)


def _curl(base_url: str, secret: str | None, model: ModelId) -> str:
    body = json.dumps({"model": model, "input": "Hello, world"}, separators=(",", ":"))
    return (
        f"curl {shlex.quote(f'{base_url}/api/v1/embeddings')} -H 'Authorization: Bearer {secret or 'YOUR_KEY'}' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
