"""/docs: the OpenAPI document as one page of plain HTML. No script, no request to anywhere."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; } h3 { margin-bottom: .25rem; } p { margin: .5rem 0; }
code, pre { font: 14px/1.5 ui-monospace, monospace; } pre { background: var(--soft); padding: 1rem; overflow: auto; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td, th { border-top: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; }
details { border-top: 1px solid var(--line); padding: .5rem 0; }
summary { cursor: pointer; } .method { display: inline-block; min-width: 4.5rem; font-weight: 700; }
"""

HERE = "http://SERVER"
"""Takes the place of the URL by which the page was asked for."""

_EXAMPLE = """\
curl {base}/api/v1/embeddings \\
  -H "Authorization: Bearer $VECTOLL_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "all-MiniLM-L6-v2", "input": "The quick brown fox"}}'"""


def render_docs(document: dict[str, Any]) -> str:
    """The page. Everything in it comes from ``document``, escaped. ``HERE`` is in it where no public URL is known."""
    info = document["info"]
    base = document["servers"][0]["url"].rstrip("/") or HERE
    body = "".join(
        [
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f"<p>{escape(info['description'])}</p>",
            '<p>The same as a machine reads it: <a href="/openapi.json">/openapi.json</a></p>',
            f"<pre>{escape(_EXAMPLE.format(base=base))}</pre>",
            "<h2>Credentials</h2>",
            f"<table>{''.join(map(_credential, document['components']['securitySchemes'].values()))}</table>",
            *_sections(document),
            "<h2>Schemas</h2>",
            *(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
        ]
    )
    head = f'<meta charset="utf-8"><title>{escape(info["title"])}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def _credential(scheme: dict[str, Any]) -> str:
    header = scheme.get("name", "Authorization: Bearer")
    return f"<tr><td><code>{escape(header)}</code></td><td>{escape(scheme['description'])}</td></tr>"


def _sections(document: dict[str, Any]) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2>"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield _operation(method, path, operation)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [_row(p["name"], p["in"], p["description"]) for p in operation.get("parameters", [])]
    if "requestBody" in operation:
        rows.append(_row("body", "application/json", _schema_name(operation["requestBody"]["content"])))
    answers = [
        _row(status, answer["description"], _schema_name(answer["content"]))
        for status, answer in operation["responses"].items()
    ]
    return (
        f'<details><summary><span class="method">{method.upper()}</span> <code>{escape(path)}</code> '
        f"{escape(operation['summary'])}</summary>"
        f"<table>{''.join(rows)}</table><table>{''.join(answers)}</table></details>"
    )


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _schema_name(content: dict[str, Any]) -> str:
    forms = [form for media in content.values() for form in media["schema"].get("anyOf", [media["schema"]])]
    return ", ".join(form.get("$ref", form.get("type", "")).rpartition("/")[2] for form in forms)


def _schema(name: str, schema: dict[str, Any]) -> str:
    text = json.dumps(schema, indent=2)
    return f"<details><summary><code>{escape(name)}</code></summary><pre>{escape(text)}</pre></details>"
