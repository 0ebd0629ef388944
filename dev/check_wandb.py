"""Check that Weights & Biases takes a run's offline folder, and finds in it exactly what metrics.jsonl holds.

    python dev/check_wandb.py RUN_FOLDER        (needs the `wandb` package)

Twice: read by the package's own reader of such files, where it has one (up to 0.27), and uploaded by `wandb sync` to a
stand-in for its server on this machine. `cargo test --release --test it wandb_takes -- --ignored` runs it on a run that
was interrupted and resumed. Nothing leaves the machine.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import wandb


def expected(run):
    """The rows of metrics.jsonl, under the names of charts."""
    rows = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        record["epoch"] += 1  # as published runs count
        values = {name: float("nan") if value is None else value for name, value in record.items()}
        rows.append({name if "/" in name else f"train/{name}": value for name, value in values.items()})
    return rows


def logged(row):
    """A row without what Weights & Biases adds itself."""
    return {name: value for name, value in row.items() if not name.startswith("_")}


def scanned(path):
    """The rows that the package's own reader finds, and its run and exit records; None if this version has no reader."""
    try:
        from wandb.sdk.internal.datastore import DataStore
    except ImportError:
        return None
    from wandb.proto.wandb_internal_pb2 import Record

    store = DataStore()
    store.open_for_scan(str(path))
    rows, run, ended = [], None, False
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item})
            assert record.history.step.num == len(rows) - 1
        elif kind == "run":
            run = record.run
        elif kind == "exit":
            ended = record.exit.exit_code == 0
    return rows, run, ended


class Server(BaseHTTPRequestHandler):
    """As much of the server as `wandb sync` asks for. Keeps what it is sent."""

    protocol_version = "HTTP/1.1"
    history, ended, config, name = {}, None, {}, None

    def log_message(self, *_):
        pass

    def answer(self, content):
        content = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def body(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def do_PUT(self):
        self.body()
        self.answer({})

    def do_POST(self):
        body = self.body()
        if self.path.endswith("/file_stream"):
            self.take(json.loads(body))
            self.answer({})
        elif self.path.endswith("/graphql"):
            request = json.loads(body)
            self.answer({"data": self.graphql(request["query"], request["variables"])})
        else:
            self.answer({})

    def take(self, stream):
        lines = stream.get("files", {}).get("wandb-history.jsonl")
        if lines:
            for number, line in enumerate(lines["content"], lines["offset"]):
                Server.history[number] = json.loads(line)
        if stream.get("complete"):
            Server.ended = stream["exitcode"]

    def graphql(self, query, variables):
        if "upsertBucket" in query:
            Server.name = variables.get("displayName") or Server.name
            Server.config |= json.loads(variables.get("config") or "{}")
            entity = {"id": "e", "name": "entity"}
            project = {"id": "p", "name": "project", "entity": entity}
            bucket = {"id": "b", "name": variables["name"], "displayName": None, "description": "", "config": "{}"}
            bucket |= {"sweepName": None, "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            address = f"http://{self.headers['Host']}/"
            files = [{"name": name, "uploadUrl": address + name} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in query:
            return {"model": None}
        viewer = {"id": "v", "entity": "entity", "username": "me", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}}


def synced(folder):
    """Lets `wandb sync` upload a copy of the offline folder to the stand-in."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.handle_error = lambda *_: None  # connections that the program drops
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = Path(sys.executable).with_name("wandb")
    command = [program] if program.exists() else [sys.executable, "-m", "wandb"]
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copytree(folder, Path(place, folder.name))
        home = {name: place for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_DIR")}
        address = f"http://127.0.0.1:{server.server_port}"
        environment = os.environ | home | {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        done = subprocess.run([*command, "sync", copy], env=environment, capture_output=True, text=True, timeout=300)
        marked = list(copy.glob("*.synced"))
    server.shutdown()
    if done.returncode or not marked:
        sys.exit(f"wandb sync did not take {folder}:\n{done.stdout}{done.stderr}")
    return [Server.history[number] for number in sorted(Server.history)]


def check(what, found, wanted):
    def plain(row):
        return sorted((name, float(value)) for name, value in row.items())

    # repr, so that NaN equals NaN; order within a row says nothing.
    found, wanted = ([plain(row) for row in rows] for rows in (found, wanted))
    for number, (one, other) in enumerate(zip(found, wanted)):
        if repr(one) != repr(other):
            sys.exit(f"{what}, row {number}: {one}, but metrics.jsonl holds {other}")
    if len(found) != len(wanted):
        sys.exit(f"{what}: {len(found)} rows, but metrics.jsonl holds {len(wanted)}")


def main(run):
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    wanted = expected(run)
    reading = scanned(path)
    if reading:
        rows, record, ended = reading
        check("DataStore", [logged(row) for row in rows], wanted)
        print(f"{path}: wandb {wandb.__version__} reads {len(rows)} rows of {record.display_name}, ended: {ended}")
    else:
        print(f"wandb {wandb.__version__} has no reader in Python (0.27 is the last one that does)")
    rows = synced(path.parent)
    check("wandb sync", [logged(row) for row in rows], wanted)
    keys = set(Server.config) - {"_wandb"}
    charts = Server.config.get("_wandb", {}).get("value", {}).get("m", [])
    print(f"wandb sync uploads {len(rows)} rows, {len(keys)} keys, {len(charts)} charts of {Server.name}, exit code {Server.ended}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
