#!/usr/bin/env python3
"""Measures what sending costs when there is much of it: files, many recipients, full stores, webhooks.

Needs what run.py needs; talks to loopback only, ends by itself.
    tests/bench/sending.py [webhooks] [files] [stream] [rows] [finished]      (nothing named: all)
"""
import base64, json, os, pathlib, random, re, statistics, subprocess, sys, tempfile, time, urllib.request

from run import ROUNDS, TARGET, Pair, Process, build, call, daemon, load, waya

RECEIVER = """
let told = 0;
const server = require('http').createServer((request, answer) => {
  request.resume();
  request.on('end', () => { if (request.method === 'POST') told += 1; answer.end(String(told)); });
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
"""


def high_water(process):
    """The most memory that a process had so far, in MiB."""
    return int(re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{process.pid}/status").read())[1]) / 1024


def forget_high_water(process):
    open(f"/proc/{process.pid}/clear_refs", "w").write("5")


def command(process, *arguments):
    return subprocess.run([waya("waya"), "--socket", process.ready["socket"], *arguments],
                          stdout=subprocess.PIPE, check=True, text=True).stdout


def of(process, folder):
    """The address and the key of a daemon in this folder."""
    return f"http://{process.ready['http']}", open(f"{folder}/api-key").read().strip()


def webhooks():
    """Posting while messages leave, with and without somebody who is told of each of their steps."""
    rates = {"without": [], "with": []}
    told = 0
    for _ in range(ROUNDS):
        for name in rates:
            with tempfile.TemporaryDirectory(dir=TARGET) as temp, Pair(temp) as pair, Process(["node", "-e", RECEIVER]) as receiver:
                people = json.load(urllib.request.urlopen(pair.emulator.ready["admin"] + "/people"))["people"]
                url = f"http://127.0.0.1:{receiver.ready['port']}/"
                if name == "with":
                    command(pair.daemon, "webhooks", "add", url)
                body = json.dumps({"number": people[0]["number"], "message": "hello from the benchmark"})
                found = load(pair.daemon, f"{pair.base}/api/send-message", 64, {"API_KEY": pair.key, "BODY": body})
                rates[name].append(found["requests/s"])
                told += int(urllib.request.urlopen(url).read())
    without, on = (statistics.median(rates[name]) for name in ("without", "with"))
    print(f"\nPOST while messages leave, 64 connections: {without:.0f}/s without a webhook, {on:.0f}/s with one on everything, "
          f"ratio {on / without:.2f} ({told} events told meanwhile; medians of {ROUNDS} alternating rounds)")


def files():
    """One document of 5 MiB to 500 people, as base64."""
    document = base64.b64encode(b"%PDF-1.4\n" + os.urandom(5 << 20)).decode()
    with tempfile.TemporaryDirectory(dir=TARGET) as temp, daemon(f"{temp}/d") as process:
        base, key = of(process, f"{temp}/d")
        call(base, key, "/api/send-message", {"number": "6281100000000", "message": "first"})
        before = process.rss()
        forget_high_water(process)
        body = {"recipients": [f"62811{number:08}" for number in range(500)],
                "media": {"data": document, "mimetype": "application/pdf", "filename": "nota.pdf"}}
        begun = time.perf_counter()
        answer = call(base, key, "/api/send-message", body)
        took = time.perf_counter() - begun
        most, after = high_water(process), process.rss()
        kept = sum(file.stat().st_size for file in pathlib.Path(f"{temp}/d").rglob("*") if file.is_file())
        print(f"\n5 MiB as base64 ({len(document) / (1 << 20):.1f} MiB of text) to {len(answer['messages'])} people: accepted after {took * 1e3:.0f} ms; "
              f"RSS {before:.1f} MiB before, {most:.1f} at most, {after:.1f} after; {kept / (1 << 20):.1f} MiB in the data folder")


def stream(size=100 << 20):
    """The largest document there is, from `waya send`."""
    with tempfile.TemporaryDirectory(dir=TARGET) as temp, daemon(f"{temp}/d") as process:
        path = pathlib.Path(f"{temp}/large.pdf")
        path.write_bytes(b"%PDF-1.4\n" + os.urandom(size - 9))
        forget_high_water(process)
        begun = time.perf_counter()
        client = subprocess.Popen([waya("waya"), "--socket", process.ready["socket"], "send", "6282146727409", "--media", str(path)],
                                  stdout=subprocess.DEVNULL)
        # The kernel's own count for a child begins with that of its parent.
        most = 0
        while client.poll() is None:
            try:
                most = max(most, high_water(client))
            except (OSError, TypeError):
                pass  # it has just ended
        took = time.perf_counter() - begun
        assert client.returncode == 0, client.returncode
        print(f"\nwaya send --media of {size >> 20} MiB: {took:.2f} s; at most {most:.1f} MiB RSS in waya, "
              f"{high_water(process):.1f} in the daemon")


def fill(base, key, count, first=0, reference=False):
    for at in range(first, first + count, 1000):
        messages = [{"number": f"62811{i % 10_000_000:08}", "message": f"message {i}", **({"reference_id": f"order-{i}"} if reference else {})}
                    for i in range(at, min(at + 1000, first + count))]
        call(base, key, "/api/send-message", {"messages": messages})


def timed(action, times=200):
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        took.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(took)


def rows():
    """How much slower a full queue is than a short one."""
    body = json.dumps({"number": "6282146727409", "message": "hello from the benchmark"})
    seen = {}
    for stored in (1_000, 100_000):
        rates, lists, ready = [], [], []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=TARGET) as temp:
                with daemon(f"{temp}/d") as process:
                    base, key = of(process, f"{temp}/d")
                    fill(base, key, stored)
                    lists.append(timed(lambda: call(base, key, "/api/queue?limit=50")))
                with daemon(f"{temp}/d") as process:
                    ready.append(process.ready_after * 1e3)
                    base, key = of(process, f"{temp}/d")
                    rates.append(load(process, f"{base}/api/send-message", 64, {"API_KEY": key, "BODY": body})["requests/s"])
                    memory = process.rss()
        seen[stored] = [statistics.median(values) for values in (rates, lists, ready)]
        rate, first_page, start = seen[stored]
        print(f"\n{stored} queued: {rate:.0f} POSTs/s at 64 connections, first page of the queue {first_page:.2f} ms, ready after {start:.0f} ms, "
              f"RSS after the load {memory:.1f} MiB (medians of {ROUNDS} rounds)")
    short, full = seen[1_000], seen[100_000]
    print(f"  full beside short: POSTs {short[0] / full[0]:.2f} times slower, first page {full[1] / short[1]:.2f} times")


def finished(count=1_000_000, churn=120):
    """A long history: messages that were taken back are finished like any other."""
    with tempfile.TemporaryDirectory(dir=TARGET) as temp:
        with daemon(f"{temp}/d") as process:
            base, key = of(process, f"{temp}/d")
            begun = time.perf_counter()
            for at in range(0, count, 50_000):
                fill(base, key, 50_000, first=at, reference=True)
                command(process, "queue", "clear", "--status", "pending", "--yes", "--quiet")
            print(f"\n{count} finished messages, written in {time.perf_counter() - begun:.0f} s: RSS {process.rss():.1f} MiB")
        with daemon(f"{temp}/d") as process:
            base, key = of(process, f"{temp}/d")
            print(f"  ready after {process.ready_after * 1e3:.0f} ms, RSS {process.rss():.1f} MiB")
            by_reference = timed(lambda: call(base, key, f"/api/message-status/order-{random.randrange(count)}"), 1000)
            unknown = timed(lambda: urllib.request.urlopen(f"{base}/livez").read(), 1000)
            print(f"  status by reference {by_reference:.2f} ms over HTTP, {by_reference - unknown:.2f} more than /livez (medians of 1,000, new connections)")
            memory, until, at = [], time.perf_counter() + churn, count
            while time.perf_counter() < until:
                fill(base, key, 1000, first=at, reference=True)
                at += 1000
                command(process, "queue", "clear", "--status", "pending", "--yes", "--quiet")
                memory.append(process.rss())
            third = len(memory) // 3
            print(f"  {at - count} more within {churn} s: RSS {statistics.mean(memory[:third]):.1f} MiB in the first third, "
                  f"{statistics.mean(memory[-third:]):.1f} in the last, {max(memory):.1f} at most; folder "
                  f"{sum(file.stat().st_size for file in pathlib.Path(f'{temp}/d').rglob('*') if file.is_file()) / (1 << 20):.0f} MiB")


def main():
    chosen = sys.argv[1:] or ["webhooks", "files", "stream", "rows", "finished"]
    build()
    for name in chosen:
        {"webhooks": webhooks, "files": files, "stream": stream, "rows": rows, "finished": finished}[name]()


if __name__ == "__main__":
    main()
