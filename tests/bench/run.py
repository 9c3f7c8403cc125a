#!/usr/bin/env python3
"""Measures Waya beside a small program somebody could have written instead: ratios from one run on one machine.

Needs: Rust, node and npm (for the baseline), wrk, curl, strace. Talks to loopback only, ends by itself.
    tests/bench/run.py [enqueue] [deliver] [cli] [start] [idle] [sizes]      (nothing named: all)
"""
import json, os, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, time
import urllib.error, urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
ROUNDS, SECONDS = 3, 5
TICKS = os.sysconf("SC_CLK_TCK")


def build():
    # One after the other: built together, features would unify and the plain daemon lose its certificate check.
    for packages in ([], ["-p", "waya-sandbox"]):
        subprocess.run(["cargo", "build", "--locked", "--release", "--quiet", *packages], cwd=ROOT, check=True)


def waya(name):
    return str(TARGET / "release" / name)


class Process:
    """A server that says when it is ready, and is stopped at the end."""

    def __init__(self, command, env=None, ready_line=True):
        self.started = time.perf_counter()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=self.log)
        self.ready = {}
        if ready_line:
            line = self.process.stdout.readline()
            self.ready_after = time.perf_counter() - self.started
            if not line:
                self.log.seek(0)
                raise RuntimeError(f"{command[0]} did not get ready: {self.log.read().decode()[-2000:]}")
            self.ready = json.loads(line)

    @property
    def pid(self):
        return self.process.pid

    def cpu(self):
        fields = open(f"/proc/{self.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss(self):
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{self.pid}/status").read())[1]) / 1024

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wrk(url, connections, env):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}", "-s", str(HERE / "baseline" / "post.lua"), url]
    out = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout
    result = json.loads(re.search(r"RESULT (.*)", out)[1])
    assert result["refused"] == 0 and result["broken"] == 0, out
    return result


def load(process, url, connections, env):
    before = process.cpu()
    result = wrk(url, connections, env)
    return {
        "requests/s": result["requests"] / (result["microseconds"] / 1e6),
        "p99 ms": result["p99"] / 1e3,
        "cpu us/request": (process.cpu() - before) * 1e6 / result["requests"],
    }


def median(rows):
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def show(title, ours, theirs):
    print(f"\n{title} (median of {ROUNDS} alternating rounds)")
    for key in ours:
        print(f"  {key:16} waya {ours[key]:12.1f}   baseline {theirs[key]:12.1f}   ratio {ours[key] / theirs[key]:6.2f}")


def baseline_dir():
    folder = pathlib.Path(os.environ.get("WAYA_BENCH_BASELINE", TARGET / "bench-baseline"))
    if not (folder / "node_modules" / "fastify").exists():
        shutil.copytree(HERE / "baseline", folder, dirs_exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
        # Newer npm runs no install scripts unasked; this one builds or fetches the native part.
        subprocess.run(["npm", "rebuild", "better-sqlite3", "--silent", "--foreground-scripts"], cwd=folder, check=True)
    return folder


def daemon(folder, *more, env=None):
    return Process([waya("waya-daemon"), "--data-dir", str(folder), "--socket", f"{folder}/s", "--http", "127.0.0.1:0", *more], env=env)


def await_http(url):
    for _ in range(200):
        try:
            return urllib.request.urlopen(url)
        except urllib.error.HTTPError:
            return None  # it asks for a key: it is there
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing answers at {url}")


def enqueue():
    folder = baseline_dir()
    for connections in (64, 1):
        ours, theirs = [], []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=TARGET) as temp:
                with Process(["node", str(folder / "queue-fastify.mjs")], {"PORT": "4202", "DB": f"{temp}/q.db"}, ready_line=False) as node:
                    await_http("http://127.0.0.1:4202/api/status")
                    theirs.append(load(node, "http://127.0.0.1:4202/api/send-message", connections, {"API_KEY": "k"}))
            with tempfile.TemporaryDirectory(dir=TARGET) as temp:
                with daemon(f"{temp}/d") as process:
                    key = open(f"{temp}/d/api-key").read().strip()
                    body = '{"number":"6282146727409","message":"hello from the baseline"}'
                    url = f"http://{process.ready['http']}/api/send-message"
                    ours.append(load(process, url, connections, {"API_KEY": key, "BODY": body}))
        show(f"durable POST /api/send-message, {connections} connection(s)", median(ours), median(theirs))


def call(base, key, path, body=None):
    request = urllib.request.Request(base + path, headers={"X-API-Key": key, "Content-Type": "application/json"},
                                     data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def sandbox(folder, env=None):
    return Process([waya("waya-sandbox"), "--data-dir", str(folder), "--socket", f"{folder}/s", "--http", "127.0.0.1:0"],
                   env={"WAYA_QUEUE_DELAY": "0", "WAYA_QUEUE_JITTER": "0", **(env or {})})


def deliver(count=2000):
    with tempfile.TemporaryDirectory(dir=TARGET) as temp, sandbox(f"{temp}/d") as process:
        key = open(f"{temp}/d/api-key").read().strip()
        base = f"http://{process.ready['http']}"
        people = json.load(urllib.request.urlopen(process.ready["admin"] + "/people"))["people"]
        numbers = [person["number"] for person in people]
        for number in numbers:  # sessions and registration checks are made once
            first = call(base, key, "/api/send-message", {"number": number, "message": "hello"})
            call(base, key, f"/api/message-status/{first['id']}?wait=sent&timeout=60")
        before, start = process.cpu(), time.perf_counter()
        answer = call(base, key, "/api/send-message", {"messages": [
            {"number": numbers[i % len(numbers)], "message": f"message {i}"} for i in range(count)]})
        accepted = time.perf_counter() - start
        while call(base, key, "/api/queue?limit=1")["pending"] + call(base, key, "/api/queue?limit=1")["sending"] > 0:
            time.sleep(0.02)
        took = time.perf_counter() - start
        statuses = {call(base, key, f"/api/message-status/{m['id']}")["status"] for m in answer["messages"][::97]}
        print(f"\ndelivered through the emulator, queue.delay = 0, {count} texts to {len(numbers)} people")
        print(f"  accepted after {accepted * 1e3:.0f} ms, all acknowledged after {took:.2f} s: {count / took:.0f} messages/s, sampled statuses {statuses}")
        print(f"  CPU of daemon, emulator and people together: {(process.cpu() - before) * 1e6 / count:.0f} us a message")


def cli(runs=40):
    with tempfile.TemporaryDirectory(dir=TARGET) as temp, daemon(f"{temp}/d") as process:
        key = open(f"{temp}/d/api-key").read().strip()
        send = [waya("waya"), "--socket", process.ready["socket"], "send", "6282146727409", "Halo"]
        curl = ["curl", "-s", "-o", "/dev/null", "-H", f"X-API-Key: {key}", "-H", "Content-Type: application/json",
                "-d", '{"number":"6282146727409","message":"Halo"}', f"http://{process.ready['http']}/api/send-message"]
        times = {"waya": [], "curl": []}
        for _ in range(runs):
            for name, command in (("waya", send), ("curl", curl)):
                start = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
                times[name].append((time.perf_counter() - start) * 1e3)
        ours, theirs = statistics.median(times["waya"]), statistics.median(times["curl"])
        print(f"\nwaya send {ours:.1f} ms, curl posting the same {theirs:.1f} ms, ratio {ours / theirs:.2f} (medians of {runs} alternating runs)")
        traced = subprocess.run(["strace", "-f", "-e", "trace=clone,clone3", *send], capture_output=True, text=True).stderr
        print(f"  threads started by waya send: {len(re.findall(r'clone3?[(]', traced))}")


def start(stored=10_000):
    with tempfile.TemporaryDirectory(dir=TARGET) as temp:
        with daemon(f"{temp}/d") as process:
            key = open(f"{temp}/d/api-key").read().strip()
            for at in range(0, stored, 1000):
                call(f"http://{process.ready['http']}", key, "/api/send-message", {"messages": [
                    {"number": "6282146727409", "message": f"message {at + i}"} for i in range(1000)]})
        times = []
        for _ in range(9):
            with daemon(f"{temp}/d") as process:
                times.append(process.ready_after * 1e3)
        print(f"\nstart to ready line with {stored} messages stored: median {statistics.median(times):.0f} ms, "
              f"min {min(times):.0f}, max {max(times):.0f}")


def idle(seconds=60):
    with tempfile.TemporaryDirectory(dir=TARGET) as temp:
        with Process([waya("waya-sandbox"), "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{temp}/e"]) as emulator:
            command = [waya("waya-sandbox"), "--connect", emulator.ready["whatsapp"], "--data-dir", f"{temp}/d",
                       "--socket", f"{temp}/s", "--http", "127.0.0.1:0"]
            with Process(command) as process:
                key = open(f"{temp}/d/api-key").read().strip()
                base = f"http://{process.ready['http']}"
                while call(base, key, "/api/session")["state"] != "connected":
                    time.sleep(0.1)
                time.sleep(10)
                print(f"\nconnected idle daemon: {process.rss():.1f} MiB RSS")
                trace = f"{temp}/trace"
                tracer = subprocess.Popen(["strace", "-f", "-tt", "-o", trace, "-p", str(process.pid)], stderr=subprocess.DEVNULL)
                time.sleep(seconds)
                tracer.send_signal(signal.SIGINT)
                tracer.wait()
                calls = [line.split(None, 2)[2] for line in open(trace) if len(line.split(None, 2)) == 3]
                names = {}
                for line in calls:
                    name = re.match(r"(?:<\.\.\. )?(\w+)", line)
                    if name and "unfinished" not in line:
                        names[name[1]] = names.get(name[1], 0) + 1
                waits = [line for line in calls if re.match(r"(?:<\.\.\. )?(epoll_wait|epoll_pwait2?|futex|clock_nanosleep|restart_syscall)", line) and "= " in line]
                woken = [line for line in waits if not re.search(r"= -1|= \?", line)]
                print(f"  in {seconds} s under strace: {len(calls)} lines, returns from waiting {len(woken)}; calls {dict(sorted(names.items(), key=lambda kv: -kv[1])[:12])}")
                print(f"  RSS after: {process.rss():.1f} MiB")


def sizes():
    print("\nrelease binaries")
    for name in ("waya", "waya-daemon", "waya-sandbox"):
        print(f"  {name:14} {os.path.getsize(waya(name)) / (1 << 20):6.1f} MiB")


def main():
    chosen = sys.argv[1:] or ["enqueue", "deliver", "cli", "start", "idle", "sizes"]
    build()
    for name in chosen:
        {"enqueue": enqueue, "deliver": deliver, "cli": cli, "start": start, "idle": idle, "sizes": sizes}[name]()


if __name__ == "__main__":
    main()
