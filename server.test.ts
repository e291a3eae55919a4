/**
 * What server.ts and client.ts promise, tried from outside as a user starts
 * them, and what README.md shows of them:
 *
 *     bun test
 *     deno test -A
 *
 * The runtime that runs this file is tried and, if it is on PATH, the other one
 * too, and every pairing of the two. The tests wait for bytes, for an end, or
 * for an exit. To show that something does not happen, a test waits as long as
 * a script takes to start ten times.
 */
const runtimes = findRuntimes();

for (const server of runtimes) {
  for (const client of runtimes) {
    const pair = `a server on ${server.name}, a client on ${client.name}`;
    check(`${pair}: greeting and echo`, async () => {
      const { port, ends } = await serve(server, { clients: 2 });
      for (const message of ["你好\n", "\u001b[1m"]) {
        const args = ["127.0.0.1", `${port}`, message];
        await start(client, "client", args).ends(0, "測試成功!\n");
      }
      await ends(
        0,
        "測試成功了啊\n收到的資訊:你好\n\n" +
          "測試成功了啊\n收到的資訊:\u001b[1m\n",
      );
    });
  }
}

// ---- One runtime at a time: what the tests are written in stands below them

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { Readable } from "node:stream";
import { test } from "node:test";

const greeting = "測試成功!\n";

/** What the server prints of a client that sent `data`. */
const printed = (data: string) => `測試成功了啊\n收到的資訊:${data}\n`;

/** 8 MiB of every byte and of no valid UTF-8, no two parts of it alike. */
const bytes = Buffer.from(
  Uint32Array.from({ length: 2 ** 21 }, (_, i) => ~i).buffer,
);

/** What a script may take in before it must make the sender wait: 16 MiB. */
const bounded = 2 ** 24;

for (const runtime of runtimes) {
  const on = (script: string) => (title: string, body: () => Promise<void>) =>
    check(`${script} on ${runtime.name}: ${title}`, body);
  const server = on("server");
  const client = on("client");
  const both = on("both");

  // ---- The server

  server("serves five clients, one at a time, in order", async () => {
    const { port, ends } = await serve(runtime);
    const first = await greeted(port);
    const second = await dial(port, "2");
    const third = await dial(port);
    third.socket.end("3"); // has sent all, and can still receive
    const fourth = await dial(port);
    fourth.socket.end(); // sends nothing
    const fifth = await dial(port, "5");
    const waiting = await dial(port, "6");
    await send(first, "1");
    for (const { received } of [first, second, third, fourth, fifth]) {
      assert.equal(`${await received.all()}`, greeting);
    }
    const all = ["1", "2", "3", "", "5"].map(printed).join("");
    await ends(0, all, `正在監聽 127.0.0.1:${port}\n`);
    assert.equal(`${await waiting.received.all()}`, "");
  });

  server("reads once, the bytes as they came, 8192 at most", async () => {
    const { port, stdout } = await serve(runtime, { clients: 3 });
    const first = await greeted(port);
    const pieces = await dial(port, "piece ");
    await giveTime(runtime); // for nothing of it may be read yet
    await send(pieces, "by piece");
    await dial(port, bytes.subarray(0, 10_000));
    await send(first, "1");
    const before = printed("1") + printed("piece by piece") + printed("");
    const all = [Buffer.from(before.slice(0, -1)), bytes.subarray(0, 8192)];
    assert.deepEqual(
      await stdout.all(),
      Buffer.concat([...all, Buffer.from("\n")]),
    );
  });

  const resets = [
    ["in its turn", ""],
    ["as its turn comes", "2"],
    ["while it waits", "2"],
    ["while it waits and has said nothing", ""],
  ] as const;
  for (const [moment, said] of resets) {
    // Deno's accept() rejects for a client that is gone: it has no turn.
    const served = moment === "in its turn" || runtime.name === "bun";
    const told = moment === "in its turn"
      ? /^.+\nsocket_read\(\) 失敗的原因是:.+ \(ECONNRESET\)\n$/
      : !served
      ? /^.+\nsocket_accept\(\) failed: reason: .+ \(ENOTCONN\)\n$/
      : moment === "as its turn comes" // Bun gives no code
      ? /^.+\nsocket_write\(\) 失敗的原因是:.+\n$/
      : /^.+\nsocket_write\(\) 失敗的原因是:.+ \(ECONNRESET\)\n$/;
    server(`outlives a client that resets ${moment}`, async () => {
      const clients = served ? 3 : 2;
      const { port, kill, ends } = await serve(runtime, { clients });
      const first = await greeted(port);
      const gone = await dial(port);
      const last = await dial(port, "3");
      if (said) await send(gone, said);
      if (moment === "in its turn") {
        await send(first, "1");
        await gone.received.until(greeting);
      } else if (moment === "as its turn comes") {
        kill("SIGSTOP");
        await send(first, "1");
      }
      gone.socket.resetAndDestroy();
      await gone.received.all(); // it has been reset
      if (moment === "as its turn comes") kill("SIGCONT");
      else if (moment !== "in its turn") {
        await giveTime(runtime); // to hear of it
        await send(first, "1");
      }
      const turn = served ? printed(said) : "";
      await ends(0, printed("1") + turn + printed("3"), told);
      assert.equal(`${await last.received.all()}`, greeting);
    });
  }

  if (runtime.name === "deno") { // Bun.listen() has no backlog
    server("lets no more wait than PHP does", async () => {
      const { port } = await serve(runtime);
      await greeted(port);
      let connected = 0;
      for (let i = 0; i < 12; i++) dial(port).then(() => connected++, () => {});
      await giveTime(runtime);
      assert(connected <= 5, `${connected}`); // Linux: one more than asked
    });
  }

  server("ends if it cannot accept", async () => {
    const source = read("server.ts")
      .replace("let count", "setTimeout(() => sock.close());\nlet count");
    const { ends } = await serve(runtime, { source });
    await ends(1, "", /^.+\nsocket_accept\(\) failed: reason: .+\n$/);
  });

  server("greets before it prints, and ends if stdout is full", async () => {
    const full = fs.openSync("/dev/full", "w");
    leftovers.push(() => fs.closeSync(full));
    const { port, ends } = await serve(runtime, { stdout: full });
    const { received } = await dial(port);
    assert.equal(`${await received.all()}`, greeting);
    await ends(1, "", /^.+\necho 失敗的原因是:.+ \(ENOSPC\)\n$/);
  });

  // ---- The client

  client("sends its message, and prints each part as it comes", async () => {
    const program = await call(runtime, "說\n");
    await program.received.until("說\n");
    for (let i = 0; i < 3; i++) { // one byte alone is no end yet
      await send(program, bytes.subarray(i, i + 1));
      await program.stdout.until(bytes.subarray(0, i + 1));
    }
    program.socket.end(bytes.subarray(3, 10_000));
    assert.deepEqual(await program.stdout.all(), bytes.subarray(0, 10_000));
    const { stderr, exit } = program;
    assert.match(`${await stderr.all()}`, /^([^a-z]+\n)+$/);
    assert.equal(await exit, 0);
    assert.equal(`${await program.received.all()}`, "說\n");
  });

  client("sends a greeting of its own, or nothing if told so", async () => {
    for (const message of [undefined, "", "-h"]) {
      const { socket, received, ends } = await call(runtime, message);
      socket.end();
      const text = `${await received.all()}`;
      if (message === undefined) assert.match(text, /^.+\n$/);
      else assert.equal(text, message);
      await ends(0, "");
    }
  });

  // An argument is too short for what a socket takes at once, by default.
  const large = read("client.ts")
    .replace("write(sock, message)", 'write(sock, "x".repeat(8_000_000))');

  client("sends all, also to a server that has said all", async () => {
    const program = await call(runtime, "", { source: large });
    program.socket.end("one");
    program.received.stream.pause();
    await giveTime(runtime);
    program.received.stream.resume();
    assert.equal((await program.received.all()).length, 8_000_000);
    await program.ends(0, "one", /8000000/);
  });

  client("prints what there is if it could not send all", async () => {
    const program = await call(runtime, "", { source: large });
    program.received.stream.pause();
    await send(program, "one");
    await giveTime(runtime);
    program.socket.resetAndDestroy();
    const said = runtime.name === "deno" // Bun gives no code
      ? /\nsocket_write\(\) 失敗的原因是:.+ \(ECONNRESET\)\n/
      : /\nsocket_write\(\) 失敗的原因是:.+\n/;
    await program.ends(1, "one", said);
  });

  client("prints what came before a reset, and says that it came", async () => {
    const program = await call(runtime);
    await send(program, "one");
    await program.stdout.until("one");
    await send(program, "two");
    program.socket.resetAndDestroy();
    const said = /\nsocket_read\(\) 失敗的原因是:.+ \(ECONNRESET\)\n$/;
    await program.ends(1, "onetwo", said);
  });

  client("leaves no gap in megabytes that a reset cuts off", async () => {
    const { socket, stdout } = await call(runtime);
    stdout.stream.pause();
    socket.write(bytes);
    await giveTime(runtime); // to fill all that is on the way
    socket.resetAndDestroy();
    stdout.stream.resume();
    const all = await stdout.all();
    assert(all.length > 2 ** 16, `only ${all.length} bytes`);
    assert(all.equals(bytes.subarray(0, all.length)), "there is a gap");
  });

  client("makes a server wait that sends without end", async () => {
    const { socket, stdout } = await call(runtime);
    stdout.stream.pause();
    const taken = flood(socket);
    await giveTime(runtime);
    assert(taken() < bounded, `it took ${taken()} bytes`);
  });

  // ---- Both

  both("lose nothing if stdout is slow", async () => {
    const called = await call(runtime, "");
    called.stdout.stream.pause();
    called.socket.end(bytes);
    const { port, stdout } = await serve(runtime, { clients: 40 });
    stdout.stream.pause();
    const messages = Array.from({ length: 40 }, (_, i) => `${i}|`.repeat(2000));
    const talked = (async () => {
      for (const message of messages) await talk(port, message);
    })();
    await giveTime(runtime);
    called.stdout.stream.resume();
    stdout.stream.resume();
    await talked;
    const all = messages.map(printed).join("");
    assert(`${await stdout.all()}` === all, "the server lost something");
    assert((await called.stdout.all()).equals(bytes), "the client did");
  });

  both("end if stdout is closed", async () => {
    const called = await call(runtime);
    flood(called.socket);
    await called.stdout.until("x");
    called.stdout.stream.destroy();
    const served = await serve(runtime, { clients: Infinity });
    let running = true;
    served.exit.then(() => running = false);
    while (running) {
      await talk(served.port, "1").catch(() => {}); // it may just have ended
      if (served.stdout.bytes.length > 0) served.stdout.stream.destroy();
    }
    // It was a pipe, or one of a pair of sockets.
    const said = /\necho 失敗的原因是:.+ \((EPIPE|ECONNRESET)\)\n$/;
    await called.ends(1, /^/, said);
    await served.ends(1, /^/, said);
  });

  for (const signal of ["SIGINT", "SIGTERM"]) {
    both(`end at ${signal}, and the server starts again`, async () => {
      const called = await call(runtime, "here");
      await called.received.until("here");
      const served = await serve(runtime, { clients: Infinity });
      for (let i = 0; i < 6; i++) await talk(served.port, "1");
      await greeted(served.port);
      for (const { kill, exit } of [called, served]) {
        kill(signal);
        assert.equal(await exit, signal);
      }
      await serve(runtime, { port: served.port });
    });
  }

  both("say which step failed, and why, and leave nothing", async () => {
    const { port } = await serve(runtime);
    const gone = await serve(runtime);
    gone.kill("SIGKILL");
    await gone.exit;
    const failing = [
      [
        "server",
        "127.0.0.1",
        port,
        /^socket_bind\(\) 失敗的原因是:.+ \(EADDRINUSE\)\n$/,
      ],
      ["server", "no..such", 65535, /^socket_bind\(\) 失敗的原因是:\S.+\n$/],
      [
        "client",
        "127.0.0.1",
        gone.port,
        /^.+\nsocket_connect\(\) 失敗的原因是:.+ \(ECONNREFUSED\)\n$/,
      ],
      ["client", "no..such", 1, /^.+\nsocket_connect\(\) 失敗的原因是:\S.+\n$/],
      [
        "client",
        "no..such",
        65535,
        /^.+\nsocket_connect\(\) 失敗的原因是:\S.+\n$/,
      ],
    ] as const;
    for (const [script, ip, port, said] of failing) {
      const program = start(runtime, script, [ip, `${port}`]);
      await program.ends(1, "", said);
      assert.deepEqual(fs.readdirSync(program.folder), [`${script}.ts`]);
      assert.doesNotMatch(read(`${script}.ts`), /\b(import|require)\b/);
    }
  });

  for (const script of ["server", "client"] as const) {
    on(script)("says what is right if asked, or told wrong", async () => {
      const usage = script === "server"
        ? /^用法:bun server\.ts.* deno run --allow-net server\.ts .*:127\.0\.0\.1 1935 5.*0 到 65535.* Infinity\n$/
        : /^用法:bun client\.ts.* deno run --allow-net client\.ts .*:127\.0\.0\.1 1935 ".+\\n".*1 到 65535\n$/;
      // Not tried, for the port may be taken.
      assert.match(read(`${script}.ts`), /ip = "127.0.0.1", port = "1935",/);
      for (const flag of ["-h", "--help"]) {
        await start(runtime, script, [flag]).ends(0, usage, "");
      }
      const wrong = ["-1", "65536", "1e3", "0x50", "80.0", "http", "-h", ""]
        .map((port) => ["127.0.0.1", port]);
      wrong.push(["8080"], [""], ["127.0.0.1", "80", "5", "6"]);
      if (script === "client") wrong.push(["127.0.0.1", "0"]);
      else {
        for (const count of ["0", "-1", "1.5", "1e1", "all", ""]) {
          wrong.push(["127.0.0.1", "0", count]);
        }
      }
      await Promise.all(
        wrong.map((args) => start(runtime, script, args).ends(2, "", usage)),
      );
    });
  }

  // ---- What a reader lifts out: other programs in the place of the story

  const lifted = on("lifted out");
  const types = runtime.name === "deno" ? ["--check", "--quiet"] : [];
  const checked = { command: [...runtime.command, ...types] };
  const serveInstead = (story: string) =>
    serve(checked, { source: instead("server")(story) });

  lifted("a second read gives the rest, and one can still write", async () => {
    const { port, stdout } = await serveInstead(`
      const msgsock = await accept(sock);
      await echo(await read(msgsock, 4));
      let buf;
      while ((buf = await read(msgsock, 1000)).length > 0) await echo(buf);
      const other = await accept(sock);
      await write(msgsock, "late");
      for (const conn of [msgsock, other, sock]) conn.close();
    `);
    const client = await dial(port, bytes.subarray(0, 4));
    await stdout.until(bytes.subarray(0, 4));
    client.socket.end(bytes.subarray(4));
    await stdout.until(bytes.subarray(-8));
    await dial(port);
    assert((await stdout.all()).equals(bytes), "something is lost");
    assert.equal(`${await client.received.all()}`, "late");
  });

  lifted("a reset behind the end changes nothing", async () => {
    const { port, stdout, ends } = await serveInstead(`
      const msgsock = await accept(sock);
      await echo(await read(msgsock, 1));
      const other = await accept(sock);
      await echo(await read(msgsock, 9), await read(msgsock, 9));
      for (const conn of [msgsock, other, sock]) conn.close();
    `);
    const { socket } = await dial(port, "123");
    await stdout.until("1");
    socket.end();
    await giveTime(runtime); // to hear of the end
    socket.resetAndDestroy();
    await giveTime(runtime); // and of the reset
    await dial(port);
    await ends(0, "123");
  });

  lifted("who sends without end waits for the next read", async () => {
    const { port, stdout } = await serveInstead(`
      const msgsock = await accept(sock);
      const other = await accept(sock);
      await echo(await read(msgsock, 3));
      await read(other, 1);
      await echo(await read(msgsock, 5));
      for (const conn of [msgsock, other, sock]) conn.close();
    `);
    const first = await dial(port);
    const other = await dial(port);
    const waiting = await dial(port);
    const taken = [first, waiting].map(({ socket }) => flood(socket));
    await giveTime(runtime);
    for (const bytes of taken) assert(bytes() < bounded, `${bytes()} taken`);
    await send(other, "1");
    assert.equal(`${await stdout.all()}`, "xxxxxxxx");
  });

  lifted("reading while writing megabytes to a slow reader", async () => {
    const { port, stdout } = await serveInstead(`
      const msgsock = await accept(sock);
      const reading = read(msgsock, 8192);
      const writing = write(msgsock, "x".repeat(8_000_000) + "end");
      await Promise.all([echo(await reading, "2", "3"), echo("4", "5", "6")]);
      await writing;
      for (const conn of [msgsock, sock]) conn.close();
    `);
    const client = await dial(port);
    client.received.stream.pause();
    await giveTime(runtime);
    await send(client, "1");
    await stdout.until("123456"); // no parts mixed
    client.received.stream.resume();
    assert.equal((await client.received.all()).length, 8_000_003);
  });

  lifted("connect in the server, listen and accept in the client", async () => {
    const [ours, theirs] = [definitions("server"), definitions("client")];
    const talk = (listener: string) => `
      const own = ${listener}.addr.port;
      const there = await connect(ip, own);
      const here = await accept(${listener});
      await write(there, "ok, ");
      await echo(await read(here, 8192));
      for (const conn of new Set([there, here, ${listener}, sock])) conn.close();
      await connect(ip, own).catch(({ code }) => echo(code));
    `;
    const { ends } = await serveInstead(talk("sock") + theirs.get("connect"));
    await ends(0, "ok, ECONNREFUSED");
    const source = instead("client")(`
      while ((await read(sock, 8192)).length > 0);
      await new Promise((resolve) => setTimeout(resolve)); // Bun hears of it
      await write(sock, "late");
      const listener = await listen(ip, 0);
      ${talk("listener")} ${ours.get("listen")} ${ours.get("accept")}
    `);
    const { socket, received, ...called } = await call(checked, "", { source });
    socket.end("all");
    await called.ends(0, "ok, ECONNREFUSED");
    assert.equal(`${await received.all()}`, "late");
  });

  lifted("bytes go into what takes bytes, and many may wait", async () => {
    const source = instead("server")(`
      for (let i = 0; i < 100; i++) await greet(await accept(sock));
      sock.close();
      async function greet(msgsock: Conn) {
        const buf = await read(msgsock, 8192);
        await crypto.subtle.digest("SHA-256", buf);
        await echo(await new Response(buf).text());
        await echo(await new Blob([buf]).text());
        msgsock.close();
      }
    `).replace(", tcpBacklog: 4", ", reusePort: false");
    const { port, stdout } = await serve(checked, { source });
    const many = Array.from({ length: 100 }, () => dial(port, "1"));
    for (const { received } of await Promise.all(many)) await received.all();
    assert.equal(`${await stdout.all()}`, "1".repeat(200));
  });

  // ---- README.md, with whose commands all of the above was started

  const readme = on("README");

  readme("what you see", async () => {
    const [ofServer, ofClient] = blocks(read("README.md"), "console")
      .map((block) => block.slice(block.indexOf("\n") + 1));
    const { port, ...served } = await serve(runtime, { clients: 1 });
    const client = start(runtime, "client", ["127.0.0.1", `${port}`]);
    const all = ({ stderr }: typeof client) =>
      stderr.all().then((text) => `${text}`.replace(`${port}`, "1935"));
    const lines = (await all(client)).split("\n");
    lines.splice(3, 0, `${await client.stdout.all()}`.trim());
    assert.equal(`${lines.join("\n")}${await client.exit}\n`, ofClient);
    const shown = await all(served) + await served.stdout.all();
    assert.equal(`${shown}${await served.exit}\n`, ofServer);
  });

  readme("the client gets the talkback too", async () => {
    const { port } = await serve(checked, { source: exercise(1) });
    assert.equal(await talk(port, "1"), `${greeting}收到的資訊:1\n`);
  });

  readme("it answers all that a client sends", async () => {
    const { port } = await serve(checked, { source: exercise(2) });
    const { socket, received } = await greeted(port);
    socket.end(bytes);
    const all = Buffer.concat([Buffer.from(greeting), bytes]);
    assert((await received.all()).equals(all), "it is not the same");
  });

  readme("it serves several clients at once", async () => {
    const source = exercise(3);
    const { port, ends } = await serve(checked, { clients: 2, source });
    const first = await greeted(port);
    await talk(port, "2");
    await send(first, "1");
    const [line, talkback] = ["測試成功了啊\n", "收到的資訊:"];
    await ends(0, `${line}${line}${talkback}2\n${talkback}1\n`);
  });

  readme("the client says that it has sent all", async () => {
    const { port } = await serve(checked, { source: exercise(2) });
    const args = ["127.0.0.1", `${port}`, "one\n"];
    const program = start(checked, "client", args, { source: exercise(4) });
    await program.ends(0, `${greeting}one\n`);
  });
}

// ---- Without a runtime, or without the right one

check("what both scripts have, they have word for word", () => {
  const [ours, theirs] = [definitions("server"), definitions("client")];
  for (const [name, text] of ours) {
    const other = theirs.get(name);
    if (other !== undefined) assert.equal(text, other, `${name} differs`);
  }
  assert([...ours.keys()].filter((name) => theirs.has(name)).length > 9);
  return Promise.resolve();
});

const node = spawnSync("node", ["--version"], { encoding: "utf8" }).stdout ??
  "";
const [major = 0, minor = 0] = node.slice(1).split(".").map(Number);
const old = !(major > 22 || major === 22 && minor >= 18);
for (const script of ["server", "client"] as const) {
  check(`${script} on Node.js: says what to run it with`, async () => {
    const program = start({ command: ["node"] }, script, []);
    await program.ends(2, "", /^.*bun .+deno run .+\n$/);
  }, old ? "no Node.js from 22.18 on PATH" : "");
}

// ---- What the tests are written in, and how it is cleared away

const leftovers: (() => void)[] = [];

/** A test that leaves nothing behind, and that fails rather than hangs. */
function check(title: string, body: () => Promise<void>, skip = ""): void {
  const named = skip ? `${title} (skipped: ${skip})` : title;
  test(named, { skip: skip !== "", timeout: 60_000 }, async () => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const hung = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("this hangs")), 30_000);
    });
    try {
      await Promise.race([body(), hung]);
    } finally {
      clearTimeout(timer);
      for (const clear of leftovers.splice(0).reverse()) clear();
    }
  });
}

/** Keeps what a stream brings. */
class Inbox {
  bytes: Buffer = Buffer.alloc(0);
  #over = false;
  #changed = () => {};

  constructor(readonly stream: Readable) {
    stream.on("data", (data) => {
      this.bytes = Buffer.concat([this.bytes, data]);
      this.#changed();
    });
    for (const event of ["end", "error", "close"]) {
      stream.on(event, () => {
        this.#over = true;
        this.#changed();
      });
    }
  }

  /** Waits till all of `part` has come. */
  async until(part: string | Buffer): Promise<void> {
    while (!this.bytes.includes(part)) {
      assert(!this.#over, `no "${part}" in "${this.bytes.subarray(-99)}"`);
      await this.#change();
    }
  }

  /** Waits for the end, and returns all that came. */
  async all(): Promise<Buffer> {
    while (!this.#over) await this.#change();
    return this.bytes;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#changed = resolve);
  }
}

type Script = "server" | "client";

interface Runtime {
  /** What stands before the name of the script. */
  command: string[];
}

interface Options {
  /** What to start instead of the script as it is. */
  source?: string;
  /** Where stdout goes, if not to the test: a file's descriptor. */
  stdout?: number;
}

/** Starts a script, copied alone into an empty folder. */
function start(
  { command: [file = "", ...before] }: Runtime,
  name: Script,
  args: string[],
  { source = read(`${name}.ts`), stdout: descriptor }: Options = {},
) {
  const folder = fs.mkdtempSync(join(tmpdir(), "socket-"));
  leftovers.push(() => fs.rmSync(folder, { recursive: true }));
  fs.writeFileSync(join(folder, `${name}.ts`), source);
  const child = spawn(file, [...before, `${name}.ts`, ...args], {
    cwd: folder,
    stdio: ["ignore", descriptor ?? "pipe", "pipe"],
    // As on a terminal, where what is printed must be the same.
    env: { ...process.env, FORCE_COLOR: "1", NO_COLOR: undefined },
  });
  const { pid } = child;
  assert(pid);
  let running = true;
  // Not child.kill(), which on Deno does nothing the second time.
  const kill = (signal: string) => running && process.kill(pid, signal);
  leftovers.push(() => kill("SIGKILL"));
  /** The exit code, or the name of the signal that ended it. */
  const exit = once(child, "exit").then(([code, signal]) => {
    running = false;
    return code ?? signal;
  });
  const stdout = new Inbox(child.stdout ?? Readable.from([]));
  const stderr = new Inbox(child.stderr ?? Readable.from([]));
  /** Waits for the end, and checks the exit code and all that was printed. */
  const ends = async (code: number, out: Text, err: Text = /^/) => {
    const is = async (inbox: Inbox, expected: Text) => {
      const text = `${await inbox.all()}`;
      return expected instanceof RegExp && expected.test(text)
        ? expected
        : text;
    };
    assert.deepEqual(
      [await exit, await is(stdout, out), await is(stderr, err)],
      [code, out, err],
    );
  };
  return { folder, stdout, stderr, kill, exit, ends };
}

type Text = string | RegExp;

/**
 * Gives a program the time to do what it should not: that in which a script
 * starts and ends ten times. What a test then finds does not hang on how long
 * that took, but how surely it finds a fault does.
 */
async function giveTime(runtime: Runtime): Promise<void> {
  for (let i = 0; i < 10; i++) await start(runtime, "server", ["-h"]).exit;
}

/** Starts a server, on a free port or on a given one, and waits for it. */
async function serve(
  runtime: Runtime,
  options: Options & { port?: number; clients?: number } = {},
) {
  const { port = 0, clients } = options;
  const args = ["127.0.0.1", `${port}`, ...clients ? [`${clients}`] : []];
  const program = start(runtime, "server", args, options);
  await program.stderr.until("\n");
  const line = `${program.stderr.bytes}`;
  assert.match(line, /^正在監聽 127\.0\.0\.1:\d+\n$/);
  return { ...program, port: Number(line.trim().split(":")[1]) };
}

/** Starts a client, and returns the other end of its connection too. */
async function call(runtime: Runtime, message?: string, options?: Options) {
  const listener = net.createServer({ allowHalfOpen: true });
  leftovers.push(() => listener.close());
  const arrived = once(listener, "connection");
  await once(listener.listen(0, "127.0.0.1"), "listening");
  const address = listener.address();
  assert(address !== null && typeof address === "object");
  const args = ["127.0.0.1", `${address.port}`];
  if (message !== undefined) args.push(message);
  const program = start(runtime, "client", args, options);
  const [socket]: net.Socket[] = await arrived;
  assert(socket);
  leftovers.push(() => socket.destroy());
  return { ...program, socket, received: new Inbox(socket) };
}

type Data = string | Uint8Array;

/** A client of our own, which gets and sends what a test wants. */
type Client = Awaited<ReturnType<typeof dial>>;

/** Connects a client, which sends `data`. */
async function dial(port: number, data?: Data) {
  const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true });
  leftovers.push(() => socket.destroy());
  const client = { socket, received: new Inbox(socket) };
  await once(socket, "connect");
  if (data !== undefined) await send(client, data);
  return client;
}

/** Connects a client, and waits for its turn. */
async function greeted(port: number): Promise<Client> {
  const client = await dial(port);
  await client.received.until(greeting);
  return client;
}

/** Writes, and waits till the system has taken it. */
function send(to: { socket: net.Socket }, data: Data): Promise<void> {
  return new Promise((resolve) => to.socket.write(data, () => resolve()));
}

/** The whole conversation of a client that sends `data`; what it got. */
async function talk(port: number, data: string): Promise<string> {
  const { received } = await dial(port, data);
  return `${await received.all()}`;
}

/** Sends without end, as fast as it is taken; returns how many bytes it was. */
function flood(socket: net.Socket): () => number {
  const block = Buffer.alloc(1 << 16, "x");
  let taken = 0;
  const more = () => {
    taken += block.length;
    socket.write(block, (error) => error || more());
  };
  more();
  return () => taken;
}

/** A file of the project. */
function read(name: string): string {
  return fs.readFileSync(new URL(name, import.meta.url), "utf8");
}

/** Puts another story into a script, from where it listens or is connected. */
function instead(script: Script) {
  const source = read(`${script}.ts`);
  const at = source.search(/^(let count|const sent)\b/m);
  const below = source.slice(source.indexOf("\n/**", at));
  return (story: string) => source.slice(0, at) + story + below;
}

/** The functions and types of a script, by their names. */
function definitions(script: Script): Map<string, string> {
  const defined =
    /^(?:\/\*\*(?:(?!\*\/).)*\*\/\n)?(?:(?:async )?function|interface) (\w+).*?^\}|^type (\w+)[^\n]*/gms;
  return new Map(
    [...read(`${script}.ts`).matchAll(defined)]
      .map(([text, name, alias]) => [name ?? alias ?? "", text]),
  );
}

/** The blocks of code of one language in a text of Markdown. */
function blocks(text: string, language: string): string[] {
  return text.split("```" + language + "\n").slice(1)
    .map((rest) => rest.slice(0, rest.indexOf("```")));
}

/** A script with the edits of one of README.md's exercises. */
function exercise(number: number): string {
  const text = read("README.md").split(/^\*\*\d\. /m)[number] ?? "";
  return blocks(text, "diff").reduce((source, block) => {
    const without = (sign: string) =>
      block.split("\n").filter((line) => line[0] !== sign)
        .map((line) => line.slice(1)).join("\n");
    const [head, tail, ...others] = source.split(without("+"));
    assert(tail !== undefined && others.length === 0, `not once: ${block}`);
    return head + without("-") + tail;
  }, read(number === 4 ? "client.ts" : "server.ts"));
}

/**
 * The runtimes to be had, each with what README.md says to start a script with;
 * one that is missing is a test that is skipped.
 */
function findRuntimes() {
  return (["bun", "deno"] as const).flatMap((name) => {
    // What is on PATH may be a wrapper, which would not pass a signal on: the
    // runtime itself is asked where it is.
    const file = name in process.versions ? process.execPath : name;
    const run = name === "bun" ? "-e" : "eval";
    const asked = spawnSync(file, [run, "console.log(process.execPath)"]);
    if (asked.status !== 0) {
      check(name, () => Promise.resolve(), "it is not on PATH");
      return [];
    }
    const [, options] = read("README.md")
      .match(new RegExp(`^${name} (.*)server\\.ts$`, "m")) ?? [];
    assert(options !== undefined, `no command with ${name} in README.md`);
    const words = options.split(" ").slice(0, -1);
    return [{ name, command: [`${asked.stdout}`.trim(), ...words] }];
  });
}
