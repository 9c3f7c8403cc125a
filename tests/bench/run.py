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
# Until what looks ever more seldom for work, after the last of it, has gone to rest.
SETTLED = 150
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

    def threads(self):
        """CPU seconds by the threads' names, numbers left out."""
        used = {}
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            name, fields = re.match(r"\d+ \((.*)\) (.*)", (task / "stat").read_text(), re.S).groups()
            fields = fields.split()
            name = re.sub(r"-\d+$", "", name)
            used[name] = used.get(name, 0) + (int(fields[11]) + int(fields[12])) / TICKS
        return used

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


class Pair:
    """Emulator and people in one process, the daemon in another, linked and without a pace."""

    def __init__(self, temp):
        self.emulator = Process([waya("waya-sandbox"), "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{temp}/e"])
        self.daemon = Process([waya("waya-sandbox"), "--connect", self.emulator.ready["whatsapp"], "--data-dir", f"{temp}/d",
                               "--socket", f"{temp}/s", "--http", "127.0.0.1:0"],
                              env={"WAYA_QUEUE_DELAY": "0", "WAYA_QUEUE_JITTER": "0"})
        self.key = open(f"{temp}/d/api-key").read().strip()
        self.base = f"http://{self.daemon.ready['http']}"
        while self.call("/api/session")["state"] != "connected":
            time.sleep(0.1)

    def call(self, path, body=None):
        return call(self.base, self.key, path, body)

    def send(self, numbers, count):
        """Has `count` texts accepted and waits until all are acknowledged."""
        answer = self.call("/api/send-message", {"messages": [
            {"number": numbers[i % len(numbers)], "message": f"message {i}"} for i in range(count)]})
        accepted = time.perf_counter()
        while True:
            queue = self.call("/api/queue?limit=1")
            if queue["pending"] + queue["sending"] == 0:
                return answer["messages"], accepted
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.daemon.__exit__()
        self.emulator.__exit__()


def deliver(count=2000, traced=200):
    with tempfile.TemporaryDirectory(dir=TARGET) as temp, Pair(temp) as pair:
        numbers = [person["number"] for person in json.load(urllib.request.urlopen(pair.emulator.ready["admin"] + "/people"))["people"]]
        pair.send(numbers, len(numbers))  # sessions and registration checks are made once
        one = []
        for i in range(30):
            begun = time.perf_counter()
            sent = pair.call("/api/send-message", {"number": numbers[0], "message": f"one {i}"})
            pair.call(f"/api/message-status/{sent['id']}?wait=sent&timeout=60")
            one.append((time.perf_counter() - begun) * 1e3)
        before, threads, people, begun = pair.daemon.cpu(), pair.daemon.threads(), pair.emulator.cpu(), time.perf_counter()
        messages, accepted = pair.send(numbers, count)
        took = time.perf_counter() - begun
        used = pair.daemon.threads()
        statuses = {pair.call(f"/api/message-status/{m['id']}")["status"] for m in messages[::97]}
        print(f"\ndelivered through the emulator, queue.delay = 0, {count} texts to {len(numbers)} people")
        print(f"  one at a time, POST to server ack: median {statistics.median(one):.1f} ms")
        print(f"  accepted after {(accepted - begun) * 1e3:.0f} ms, all acknowledged after {took:.2f} s: {count / took:.0f} messages/s, sampled statuses {statuses}")
        print(f"  CPU: daemon {(pair.daemon.cpu() - before) * 1e6 / count:.0f} us a message, emulator and people {(pair.emulator.cpu() - people) * 1e6 / count:.0f} us a message")
        print("  CPU of the daemon's threads, us a message:",
              {name: round((cpu - threads.get(name, 0)) * 1e6 / count) for name, cpu in sorted(used.items(), key=lambda kv: -kv[1]) if cpu > threads.get(name, 0)})
        trace = f"{temp}/trace"
        tracer = subprocess.Popen(["strace", "-f", "-y", "-T", "-e", "trace=fsync,fdatasync", "-o", trace, "-p", str(pair.daemon.pid)], stderr=subprocess.DEVNULL)
        time.sleep(1)
        pair.send(numbers, traced)
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        syncs = {}
        for line in open(trace):
            found = re.search(r"f(?:data)?sync\(\d+<([^>]+)>\).*<([\d.]+)>", line)
            if found:
                name = "/".join(found[1].split("/")[-2:]).replace("d/", "", 1)
                times, seconds = syncs.get(name, (0, 0.0))
                syncs[name] = (times + 1, seconds + float(found[2]))
        print(f"  fsyncs of {traced} messages, by file (times a message, ms a message):",
              {name: (round(times / traced, 2), round(seconds * 1e3 / traced, 2)) for name, (times, seconds) in syncs.items()})


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
    with tempfile.TemporaryDirectory(dir=TARGET) as temp, Pair(temp) as pair:
        process = pair.daemon
        time.sleep(SETTLED)
        print(f"\nconnected idle daemon: {process.rss():.1f} MiB RSS")
        before = process.cpu()
        trace = f"{temp}/trace"
        tracer = subprocess.Popen(["strace", "-f", "-o", trace, "-p", str(process.pid)], stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        names = {int(task.name): re.sub(r"-\d+$", "", (task / "comm").read_text().strip())
                 for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir()}
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        woken, calls = {}, {}
        for line in open(trace):
            found = re.match(r"(\d+)\s+(<\.\.\. )?(\w+)", line)
            if not found or "unfinished" in line:
                continue
            thread = names.get(int(found[1]), "gone")
            # A thread that waits comes back once; a futex that wakes others and a poll that does not wait are none.
            waits = found[3] in ("epoll_wait", "epoll_pwait", "epoll_pwait2", "clock_nanosleep", "restart_syscall", "poll")
            if found[2] and (waits or found[3] == "futex") or "FUTEX_WAIT" in line or waits and ", 0) = " not in line:
                woken[thread] = woken.get(thread, 0) + 1
            calls[found[3]] = calls.get(found[3], 0) + 1
        print(f"  wake-ups in {seconds} s, by thread: {dict(sorted(woken.items(), key=lambda kv: -kv[1]))}")
        print(f"  system calls: {dict(sorted(calls.items(), key=lambda kv: -kv[1])[:10])}; CPU {(process.cpu() - before) * 1e3:.0f} ms (traced)")


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
