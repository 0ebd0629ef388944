"""`coconut serve` under load, beside `coconut eval`, and among clients that misbehave.

    python dev/check_load.py target/release/coconut CKPT QUESTIONS.json [--seconds 600] [--tokens 16] [--only PART …]

CKPT is a checkpoint, or a plain model's folder; QUESTIONS.json a file of examples. Needs `wrk` (Debian's package) and
nothing else. Parts, and when each fails:

    load         64 clients at once, each of eight kinds of request: an answer is missing or other than when asked alone,
                 or memory grows by a tenth from the first quarter to the last
    throughput   64 clients, who ask what `eval` is asked in batches of 64, in turns: an answer is other than eval's
    bad          malformed, oversized, slow and cut requests by the thousand: anything but a refusal, a row that stays,
                 a connection that stays, memory that grows by a quarter, a word of a panic
"""

import argparse
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

CLIENTS = 64
PATH = "/v1/completions"
# Each thread of wrk asks one thing all the time; what must come back is every `text` in a row.
LUA = """
local kinds = {KINDS}
local counter = 0
threads = {}
function setup(thread)
  counter = counter + 1
  thread:set("number", counter)
  table.insert(threads, thread)
end
function init() wrong, checked, sample = 0, 0, "" end
function request()
  local kind = kinds[(number - 1) % #kinds + 1]
  return wrk.format("POST", "PATH", {["Content-Type"] = "application/json"}, kind.body)
end
function response(status, headers, body)
  local kind = kinds[(number - 1) % #kinds + 1]
  local said = ""
  for text in body:gmatch('"text":"([^"]*)"') do said = said .. text end
  checked = checked + 1
  if status ~= 200 or said ~= kind.said then
    wrong = wrong + 1
    if sample == "" then sample = status .. " " .. body:sub(1, 300) end
  end
end
function done(summary, latency)
  local wrong, checked, sample = 0, 0, ""
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("wrong")
    checked = checked + thread:get("checked")
    if sample == "" then sample = thread:get("sample") end
  end
  local e = summary.errors
  io.write(string.format("FOUND %d %d %d %d %.1f %.1f %s\\n", checked, wrong,
    e.connect + e.read + e.write + e.timeout, summary.duration, latency:percentile(50), latency:percentile(99), sample))
end
"""


class Server:
    def __init__(self, program, folder, *more):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        command = [program, "serve", folder, "--port=0", "--name=served", *more]
        self.process = subprocess.Popen(command, stderr=self.log)
        while not (found := re.search(r"http://([\d.]+):(\d+)", self.said())):
            if self.process.poll() is not None:
                sys.exit(f"{command} ended: {self.said()}")
            time.sleep(0.05)
        self.url, self.address = found[0], (found[1], int(found[2]))

    def said(self):
        return Path(self.log.name).read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)

    def ask(self, body):
        with urllib.request.urlopen(self.url + PATH, body.encode()) as answer:
            return answer.read().decode()

    def metric(self, name):
        with urllib.request.urlopen(self.url + "/metrics") as answer:
            return float(re.search(rf"^coconut_{name} (.*)$", answer.read().decode(), re.MULTILINE)[1])

    def memory(self):
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s*(\d+)", status)[1])

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def said(body):
    return "".join(re.findall(r'"text":"([^"]*)"', body))


def lua(text):
    return '"' + "".join(c if c.isalnum() else f"\\{ord(c):03d}" for c in text) + '"'


def kinds(server, questions, tokens, plain):
    """Requests of eight kinds, and what each is answered when nothing else is asked."""
    bodies = []
    extras = [{}, {"logprobs": 2}, {"stream": True}, {"ignore_eos": True}]
    extras += [{"max_tokens": 2}, {"stream": True, "logprobs": 1}, {"temperature": 1, "seed": 3}, {"top_k": 3, "temperature": 2, "seed": 1}]
    if not plain:
        extras[1:4] = [{"thoughts": 3}, {"edit": "zero@2"}, {"stream": True, "thoughts": 1}]
    for question, more in zip(questions, extras):
        bodies.append(json.dumps({"prompt": question, "max_tokens": tokens} | more))
    return [{"body": body, "said": said(server.ask(body))} for body in bodies]


def wrk(server, kinds, seconds):
    """Answers checked, wrong ones, errors of sockets, seconds, milliseconds at the median and 99 of 100."""
    written = ",".join(f'{{body={lua(k["body"])},said={lua(k["said"])}}}' for k in kinds)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA.replace("PATH", PATH).replace("KINDS", written))
        script.flush()
        command = ["wrk", f"-t{min(len(kinds), CLIENTS)}", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout=60s", "-s", script.name, server.url]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = re.search(r"FOUND (\d+) (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+) (.*)", found)
    if line is None:
        sys.exit(found)
    checked, wrong, errors, micros = (int(line[n]) for n in range(1, 5))
    return checked, wrong, errors, micros / 1e6, float(line[5]) / 1e3, float(line[6]) / 1e3, line[7]


def load(options, plain):
    with Server(options.program, options.folder, "--rows=64") as server:
        asked = kinds(server, options.questions, options.tokens, plain)
        memory, over = [], Event()
        def watch():
            while not over.wait(1):
                memory.append(server.memory())
        watcher = Thread(target=watch)
        watcher.start()
        n, wrong, errors, seconds, median, last, sample = wrk(server, asked, options.seconds)
        over.set()
        watcher.join()
        quarter = max(len(memory) // 4, 1)
        first, end = (statistics.median(part) / 1e6 for part in (memory[:quarter], memory[-quarter:]))
        print(f"load: {CLIENTS} clients, {seconds:.0f} s: {n} answers, {wrong} wrong, {errors} errors; {median:.1f} ms at the median, {last:.1f} at 99 %")
        print(f"load: resident {first:.1f} MB in the first quarter, {end:.1f} in the last, {max(memory) / 1e6:.1f} at most")
        assert n and not wrong and not errors, sample
        assert end < 1.1 * first
        assert "panicked" not in server.said(), server.said()


def throughput(options, plain):
    """Answers a second of the server, of `eval` on the same questions, and the ratio; in turns."""
    questions = options.all_questions[: options.most]
    more = [f"--latents={options.latents}"] if plain and options.latents else []
    with Server(options.program, options.folder, "--rows=64", *more) as server, tempfile.TemporaryDirectory() as here:
        asked = []
        for question in questions[:CLIENTS]:
            # As `eval` puts a question to a plain model.
            body = json.dumps({"prompt": question + ("\n" if plain else ""), "max_tokens": options.tokens})
            asked.append({"body": body, "said": said(server.ask(body))})
        # The same questions as often as the server was asked in a few seconds.
        copies = max(options.most // len(asked), 1)
        file, samples = Path(here) / "questions.json", Path(here) / "samples.jsonl"
        examples = [example for _ in range(copies) for example in options.examples[: len(asked)]]
        file.write_text(json.dumps(examples))
        rates, ratios, busy = [], [], []
        for turn in range(options.turns):
            before = server.metric("model_seconds_total")
            n, wrong, errors, seconds, *_ = wrk(server, asked, options.turn_seconds)
            busy.append((server.metric("model_seconds_total") - before) / seconds)
            assert not wrong and not errors
            command = [options.program, "eval", options.folder, "--data", file, "--batch-size=64", f"--max-new-tokens={options.tokens}", "--json", *more]
            command += ["--samples", samples] if turn == 0 else []
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            alone = 1000 / found["eval_ms_per_question"]
            if turn == 0:
                told = [json.loads(line)["generation"] for line in samples.read_text().splitlines()]
                told = [json.dumps(text, ensure_ascii=False)[1:].split('"')[0] for text in told]
                assert [one["said"].split('"')[0] for one in asked] == told[: len(asked)], "eval says something else"
            rates.append((n / seconds, alone))
            ratios.append(n / seconds / alone)
        for (served, alone), ratio, share in zip(rates, ratios, busy):
            print(f"throughput: served {served:.1f} answers/s, eval {alone:.1f}, ratio {ratio:.3f}; the model computed {100 * share:.0f} % of the time")
        print(f"throughput: ratio {statistics.median(ratios):.3f} at the median of {len(ratios)}")


def send(server, data, wait=True, seconds=10):
    """What comes back for bytes that are sent as they are."""
    with socket.create_connection(server.address, seconds) as stream:
        stream.sendall(data)
        if not wait:
            return b""
        found = b""
        try:
            while part := stream.recv(65536):
                found += part
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def framed(body, length=None):
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def bad(options, plain):
    rng = random.Random(0)
    with Server(options.program, options.folder, "--rows=16", "--patience=5", "--max-body=64") as server, ThreadPoolExecutor(32) as pool:
        whole = json.dumps({"prompt": options.questions[0], "max_tokens": 8, "stop": ["#"], "logprobs": 2})
        alone = said(server.ask(whole))

        def broken(_):
            data = bytearray(whole.encode())
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(max(len(data), 1))
                match rng.randrange(3):
                    case 0: data[at : at + 1] = [rng.randrange(256)]
                    case 1: del data[at : at + 1]
                    case 2: data = data[: max(at, 1)]
            return send(server, framed(bytes(data)))

        def oversized(_):
            return send(server, framed(b"x" * (80 * 1024)))

        def no_http(_):
            return send(server, bytes(rng.randrange(256) for _ in range(200)) + b"\r\n\r\n")

        def cut(_):
            return send(server, framed(whole.encode())[: rng.randrange(1, len(whole))], wait=False)

        def cut_answer(_):
            body = json.dumps({"prompt": options.questions[0], "max_tokens": 400, "ignore_eos": True, "stream": True})
            with socket.create_connection(server.address, 60) as stream:
                stream.sendall(framed(body.encode()))
                return stream.recv(16)

        def round_(n):
            counts = {}
            for kind in (broken, oversized, no_http, cut, cut_answer):
                for found in pool.map(kind, range(n if kind is not cut_answer else n // 4)):
                    status = found[9:12].decode("latin-1") or "-"
                    counts.setdefault(kind.__name__, {}).setdefault(status, 0)
                    counts[kind.__name__][status] += 1
            # Clients that send a byte now and then, and never all.
            streams = []
            for _ in range(n // 4):
                stream = socket.create_connection(server.address, 10)
                stream.sendall(framed(b"", 100)[: rng.choice([20, 60, 10_000])])
                streams.append(stream)
            for _ in range(3):
                time.sleep(1)
                for stream in streams:
                    try:
                        stream.sendall(b" ")
                    except OSError:
                        pass
            assert said(server.ask(whole)) == alone, "among slow clients"
            time.sleep(8)
            ended = 0
            for stream in streams:
                stream.settimeout(0.5)
                try:
                    while stream.recv(4096):
                        pass
                    ended += 1
                except TimeoutError:
                    pass
                except ConnectionResetError:
                    ended += 1
                stream.close()
            counts["slow"] = {"ended": ended, "of": len(streams)}
            assert ended == len(streams), counts
            return counts

        round_(100)
        memory, files = server.memory(), server.files()
        counts = round_(options.many)
        started = time.time()
        while server.metric("rows_running") or server.metric("queue_length") or server.files() > files + 2:
            assert time.time() - started < 30, (server.metric("rows_running"), server.files(), files)
            time.sleep(0.2)
        for kind, found in counts.items():
            print(f"bad: {kind}: " + ", ".join(f"{status}: {n}" for status, n in sorted(found.items())))
        print(f"bad: resident {memory / 1e6:.1f} MB before, {server.memory() / 1e6:.1f} after; {files} and {server.files()} open files")
        assert said(server.ask(whole)) == alone
        assert not {status for kind in counts for status in counts[kind] if status.startswith("5")}, counts
        assert set(counts["oversized"]) <= {"413", "-"}, counts
        assert server.memory() < 1.25 * memory
        assert "panicked" not in server.said(), server.said()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=int, default=600, help="of the load")
    parser.add_argument("--tokens", type=int, default=16, help="most tokens of an answer")
    parser.add_argument("--many", type=int, default=4000, help="bad requests of each kind")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--turn-seconds", type=int, default=10)
    parser.add_argument("--most", type=int, default=6400, help="questions that eval is asked in a turn")
    parser.add_argument("--latents", type=int, default=0, help="of a plain model, for throughput")
    parser.add_argument("--only", nargs="*", default=["load", "throughput", "bad"])
    options = parser.parse_args()
    plain = not os.path.exists(os.path.join(options.folder, "latent.json"))
    options.examples = json.loads(options.data.read_text())
    options.all_questions = [example["question"] for example in options.examples]
    options.questions = options.all_questions[:8]
    for part in options.only:
        {"load": load, "throughput": throughput, "bad": bad}[part](options, plain)


main()
