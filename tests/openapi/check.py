"""Requests that the OpenAPI document allows, and some that it does not, at a peer that serves HTTP: no fault of the peer, and no answer that the
document does not describe. Usage: python check.py PROGRAM [SECONDS], with the python that requirements.txt was installed for."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

PROGRAM, SECONDS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
PATIENCE = int(os.environ.get("PATIENCE", "60"))
# What a problem says that is nobody's fault: what was asked for is not here yet.
WAITS = '["2xx", "3xx", "4xx", 503]'
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)


def config(space, docs, versions, digest, hook):
    """What values stand for something that is there; others are drawn as well."""
    lines = [
        "request-timeout = 20",
        "continue-on-failure = true",
        "dictionaries.docs.values = " + json.dumps(docs),
        "dictionaries.versions.values = " + json.dumps(versions),
        "dictionaries.pointers.values = " + json.dumps(["items", "items/0", "items/-", "note", "deep/a~1b", "n"]),
        "[parameters]",
        f'"path.space" = "{space}"',
        f'"path.digest" = "{digest}"',
        f'"path.hook" = "{hook}"',
        '"path.doc" = { dictionary = "docs", probability = 0.9 }',
        '"path.pointer" = { dictionary = "pointers", probability = 0.7 }',
        '"query.doc" = { dictionary = "docs", probability = 0.9 }',
    ]
    lines += [f'"{name}" = {{ dictionary = "versions", probability = 0.7 }}'
              for name in ("query.at", "query.min", "query.since", "query.base", "header.parents")]
    lines += [
        "[phases.coverage]",
        'unexpected-methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]',
        # Streams do not end.
        "[[operations]]",
        'include-path-regex = "/events$"',
        "request-timeout = 1",
        "max-stream-events = 1",
        "[[operations]]",
        'include-path-regex = "/docs/\\\\{doc\\\\}$|/blobs/\\\\{digest\\\\}$"',
        'include-method = "GET"',
        f"checks.not_a_server_error.expected-statuses = {WAITS}",
    ]
    return "\n".join(lines) + "\n"


def ask(url, body=None, kind="application/json", token=None):
    headers = ({"Content-Type": kind} if body else {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer), answer.headers


def main(home):
    env = {key: value for key, value in os.environ.items() if not key.startswith("COMMONHOLD_")}
    env |= {"COMMONHOLD_CONFIG": "/dev/null", "COMMONHOLD_STORE_DATA": f"{home}/data", "COMMONHOLD_STORE_KEYS": f"{home}/keys"}
    space = subprocess.run([PROGRAM, "space", "new", "--writers", "anyone"], env=env, check=True, capture_output=True, text=True).stdout.strip()
    token = subprocess.run([PROGRAM, "token", "new", "openapi", "--all-spaces", "--right", "write"], env=env, check=True, capture_output=True, text=True)
    token = token.stdout.strip()
    # Webhooks lead to a port of the loopback at which nobody listens (hooks.py).
    env |= {"COMMONHOLD_WEBHOOKS_ENABLED": "true", "COMMONHOLD_WEBHOOKS_ALLOW_NETWORKS": "127.0.0.1/32"}
    env |= {"COMMONHOLD_HTTP_LISTEN": "127.0.0.1:0", "COMMONHOLD_HTTP_OPEN": "*:write", "COMMONHOLD_LOG_LEVEL": "error"}
    ready = f"{home}/ready.json"
    peer = subprocess.Popen([PROGRAM, "serve", "--listen", "ws://127.0.0.1:0/", "--ready-file", ready], env=env, stdout=subprocess.DEVNULL)
    try:
        began = time.monotonic()
        while not os.path.exists(ready):
            if time.monotonic() - began > PATIENCE or peer.poll() is not None:
                sys.exit("the peer did not start")
            time.sleep(0.02)
        with open(ready) as file:
            host = "http://" + json.load(file)["http"][0]
        docs, versions = [], []
        content = json.dumps({"content": {"items": ["milk", "eggs"], "note": "today", "n": 1, "deep": {"a/b": [{"id": 1}]}}}).encode()
        for _ in range(4):
            _, headers = ask(f"{host}/v1/spaces/{space}/docs", content)
            docs.append(headers["Location"].rsplit("/", 1)[1])
            versions.append(headers["Version"].strip('"'))
        blob, _ = ask(f"{host}/v1/spaces/{space}/blobs", b"some bytes", "application/octet-stream")
        hook, _ = ask(f"{host}/v1/spaces/{space}/webhooks", b'{"url": "http://127.0.0.1:9/"}', token=token)
        with open(f"{home}/schemathesis.toml", "w") as file:
            file.write(config(space, docs, versions, blob["href"].rsplit("/", 1)[1], hook["id"]))
        run = subprocess.run(
            [os.path.join(os.path.dirname(sys.executable), "schemathesis"), "--config-file", f"{home}/schemathesis.toml", "run",
             f"{host}/openapi.json", "--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS), "--max-time", str(SECONDS), "--max-examples", "40",
             "--no-color", "--warnings", "off", "--generation-database", "none"],
            cwd=home, env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))})
        alive = peer.poll() is None and urllib.request.urlopen(f"{host}/readyz", timeout=PATIENCE).status == 204
        for what, good in (("requests", run.returncode == 0), ("the peer afterwards", alive)):
            print(f"{'ok' if good else 'FAILED'}: {what}")
        failed = (run.returncode != 0) + (not alive)
        print(f"openapi: {2 - failed} passed, {failed} failed")
        return failed
    finally:
        peer.kill()
        peer.wait()


if __name__ == "__main__":
    folder = tempfile.mkdtemp(prefix="openapi-")
    try:
        sys.exit(1 if main(folder) else 0)
    finally:
        shutil.rmtree(folder)
