/**
 * What server.ts and client.ts promise, tried from outside as a user starts
 * them, and what README.md shows of them.
 *
 *     bun test
 *     deno test -A
 *
 * The runtime that runs this file is tried and, where it is on PATH, the other
 * one too, and every pairing of the two. No test waits for time to pass: it
 * waits for bytes, for an end, or for an exit. What the tests are written in
 * stands below them.
 */
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

const runtimes = findRuntimes();

for (const server of runtimes) {
  for (const client of runtimes) {
    const pair = `a server on ${server.name}, a client on ${client.name}`;
    check(`${pair}: greeting and echo`, async () => {
      const { port, over } = await serve(server, { clients: 2 });
      for (const message of ["你好\n", "\u001b[1m"]) {
        const args = ["127.0.0.1", `${port}`, message];
        const { stdout, exit } = await start(client, "client", args).over();
        assert.deepEqual([stdout, exit], [greeting, 0]);
      }
      const { stdout, exit } = await over();
      assert.equal(stdout, printed("你好\n") + printed("\u001b[1m"));
      assert.equal(exit, 0);
    });
  }
}

for (const runtime of runtimes) {
  const on = (script: string) => (title: string, body: () => Promise<void>) =>
    check(`${script} on ${runtime.name}: ${title}`, body);
  const server = on("server");
  const client = on("client");
  const both = on("both");

  // ---- The server

  server("serves five clients, one at a time, in order", async () => {
    const { port, over } = await serve(runtime);
    const first = await greeted(port);
    const second = await dial(port);
    await send(second, "2");
    const third = await dial(port);
    third.socket.end("3"); // has sent all, and can still receive
    const fourth = await dial(port);
    fourth.socket.end(); // sends nothing
    const fifth = await dial(port);
    await send(fifth, "5");
    const waiting = await dial(port);
    await send(waiting, "6");
    await send(first, "1");
    for (const { received } of [first, second, third, fourth, fifth]) {
      assert.equal(`${await received.all()}`, greeting);
    }
    assert.deepEqual(await over(), {
      stdout: ["1", "2", "3", "", "5"].map(printed).join(""),
      stderr: `正在監聽 127.0.0.1:${port}\n`,
      exit: 0,
    });
    assert.equal(`${await waiting.received.all()}`, "");
  });

  server("reads once, the bytes as they came, 8192 at most", async () => {
    const { port, stdout } = await serve(runtime, { clients: 3 });
    const first = await greeted(port);
    const pieces = await dial(port);
    await send(pieces, "piece ");
    await giveTime(runtime); // for nothing of it may be read yet
    await send(pieces, "by piece");
    const many = await dial(port);
    await send(many, bytes.subarray(0, 10_000));
    await send(first, "1");
    const before = printed("1") + printed("piece by piece") + printed("");
    const all = [Buffer.from(before.slice(0, -1)), bytes.subarray(0, 8192)];
    assert.deepEqual(
      await stdout.all(),
      Buffer.concat([...all, Buffer.from("\n")]),
    );
  });

  for (const moment of ["while it waits", "as its turn comes", "in its turn"]) {
    server(`outlives a client that resets ${moment}`, async () => {
      const inTurn = moment === "in its turn";
      // Deno's accept() rejects for a client that is gone: it has no turn.
      const served = inTurn || runtime.name === "bun";
      const program = await serve(runtime, { clients: served ? 3 : 2 });
      const first = await greeted(program.port);
      const gone = await dial(program.port);
      const last = await dial(program.port);
      await send(last, "3");
      if (inTurn) {
        await send(first, "1");
        await gone.received.until(greeting);
        await reset(gone);
      } else if (moment === "while it waits") {
        await send(gone, "2");
        await reset(gone);
        await giveTime(runtime); // to hear of it
        await send(first, "1");
      } else {
        await send(gone, "2");
        program.kill("SIGSTOP");
        await send(first, "1");
        await reset(gone);
        program.kill("SIGCONT");
      }
      const { stdout, stderr, exit } = await program.over();
      const turn = !served ? "" : printed(inTurn ? "" : "2");
      assert.equal(stdout, printed("1") + turn + printed("3"));
      assert.equal(exit, 0);
      assert.match(
        stderr,
        inTurn
          ? /^.+\nsocket_read\(\) 失敗的原因是:.+ \(ECONNRESET\)\n$/
          : !served
          ? /^.+\nsocket_accept\(\) failed: reason: .+ \(ENOTCONN\)\n$/
          : moment === "while it waits"
          ? /^.+\nsocket_write\(\) 失敗的原因是:.+ \(ECONNRESET\)\n$/
          : /^.+\nsocket_write\(\) 失敗的原因是:.+\n$/, // Bun gives no code
      );
    });
  }

  if (runtime.name === "deno") { // Bun.listen() has no backlog
    server("lets no more wait than PHP does", async () => {
      const { port } = await serve(runtime);
      await greeted(port);
      let connected = 0;
      for (let i = 0; i < 12; i++) dial(port).then(() => connected++, () => {});
      await giveTime(runtime);
      assert(connected <= 5, `${connected} are connected`); // Linux: one more
    });
  }

  server("ends where it cannot accept", async () => {
    const source = read("server.ts")
      .replace("let count", "setTimeout(() => sock.close(), 0);\nlet count");
    const { over } = await serve(runtime, { source });
    const { stderr, exit } = await over();
    assert.match(stderr, /^.+\nsocket_accept\(\) failed: reason: .+\n$/);
    assert.equal(exit, 1);
  });

  server("greets before it prints, and ends where stdout is full", async () => {
    const full = fs.openSync("/dev/full", "w");
    leftovers.push(() => fs.closeSync(full));
    const { port, over } = await serve(runtime, { stdout: full });
    const { received } = await dial(port);
    assert.equal(`${await received.all()}`, greeting);
    const { stderr, exit } = await over();
    assert.match(stderr, /^.+\necho 失敗的原因是:.+ \(ENOSPC\)\n$/);
    assert.equal(exit, 1);
  });

  // ---- The client

  client("sends its message, and prints each part as it comes", async () => {
    const program = await call(runtime, "說\n");
    await program.received.until("說\n");
    await send(program, bytes.subarray(0, 1000));
    await program.stdout.until(bytes.subarray(0, 1000));
    program.socket.end(bytes.subarray(1000, 10_000));
    assert.deepEqual(await program.stdout.all(), bytes.subarray(0, 10_000));
    const { stderr, exit } = await program.over();
    assert.match(stderr, /^([^a-z]+\n)+$/);
    assert.equal(exit, 0);
    assert.equal(`${await program.received.all()}`, "說\n");
  });

  client("sends a greeting of its own, or nothing where told so", async () => {
    for (const message of [undefined, "", "-h"]) {
      const { socket, received, exit } = await call(runtime, message);
      socket.end();
      const text = `${await received.all()}`;
      if (message === undefined) assert.match(text, /^.+\n$/);
      else assert.equal(text, message);
      assert.equal(await exit, 0);
    }
  });

  // An argument is too short for what a socket takes at once, by default.
  const large = read("client.ts")
    .replace(/const greeting = .*/, 'const greeting = "x".repeat(8_000_000);');

  client("sends all, also to a server that has said all", async () => {
    const program = await call(runtime, undefined, { source: large });
    program.socket.end("one");
    program.received.stream.pause();
    await giveTime(runtime);
    program.received.stream.resume();
    assert.equal((await program.received.all()).length, 8_000_000);
    const { stdout, exit } = await program.over();
    assert.deepEqual([stdout, exit], ["one", 0]);
  });

  client("prints what there is where it could not send all", async () => {
    const program = await call(runtime, undefined, { source: large });
    program.received.stream.pause();
    await send(program, "one");
    await giveTime(runtime);
    program.socket.resetAndDestroy();
    const { stdout, stderr, exit } = await program.over();
    assert.deepEqual([stdout, exit], ["one", 1]);
    const said = runtime.name === "deno" // Bun gives no code
      ? /\nsocket_write\(\) 失敗的原因是:.+ \(ECONNRESET\)\n/
      : /\nsocket_write\(\) 失敗的原因是:.+\n/;
    assert.match(stderr, said);
  });

  client("prints what came before a reset, and says that it came", async () => {
    const program = await call(runtime);
    await send(program, "one");
    await program.stdout.until("one");
    await send(program, "two");
    program.socket.resetAndDestroy();
    const { stdout, stderr, exit } = await program.over();
    assert.deepEqual([stdout, exit], ["onetwo", 1]);
    assert.match(stderr, /\nsocket_read\(\) 失敗的原因是:.+ \(ECONNRESET\)\n$/);
  });

  client("leaves no gap in megabytes that a reset cuts off", async () => {
    const { socket, stdout } = await call(runtime);
    stdout.stream.pause();
    socket.write(bytes);
    await giveTime(runtime); // to fill all that is on the way
    socket.resetAndDestroy();
    stdout.stream.resume();
    const all = await stdout.all();
    assert(all.equals(bytes.subarray(0, all.length)), "there is a gap");
  });

  client("minds no reset behind the end", async () => {
    const { socket, stdout, exit } = await call(runtime, "");
    stdout.stream.pause();
    socket.end(bytes.subarray(0, 130_000));
    await giveTime(runtime); // to fill stdout
    socket.resetAndDestroy();
    stdout.stream.resume();
    assert.equal((await stdout.all()).length, 130_000);
    assert.equal(await exit, 0);
  });

  client("makes a server wait that sends without end", async () => {
    const { socket, stdout } = await call(runtime);
    stdout.stream.pause();
    const taken = flood(socket);
    await giveTime(runtime);
    assert(taken() < bounded, `it took ${taken()} bytes`);
  });

  // ---- Both

  both("lose nothing where stdout is slow", async () => {
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

  both("end where stdout is closed", async () => {
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
    for (const program of [called, served]) {
      const { stderr, exit } = await program.over();
      // It was a pipe, or one of a pair of sockets.
      assert.match(stderr, /\necho 失敗的原因是:.+ \((EPIPE|ECONNRESET)\)\n$/);
      assert.equal(exit, 1);
    }
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
    const closed = await closedPort(runtime);
    for (
      const [script, line, said] of [
        ["server", `127.0.0.1 ${port}`, /^socket_bind\(\) .+EADDRINUSE\)\n$/],
        ["server", "no..such 65535", /^socket_bind\(\) 失敗的原因是:\S.+\n$/],
        ["client", `127.0.0.1 ${closed}`, /^.+\nsocket_connect.+REFUSED\)\n$/],
        [
          "client",
          "no..such 65535",
          /^.+\nsocket_connect\(\) 失敗的原因是:\S.+\n$/,
        ],
      ] as const
    ) {
      const program = start(runtime, script, line.split(" "));
      const { stdout, stderr, exit } = await program.over();
      assert.match(stderr, said);
      assert.deepEqual([stdout, exit], ["", 1]);
      assert.deepEqual(fs.readdirSync(program.folder), [`${script}.ts`]);
      assert.doesNotMatch(read(`${script}.ts`), /\b(import|require)\b/);
    }
  });

  for (const script of ["server", "client"] as const) {
    on(script)("says what is right where asked, or told wrong", async () => {
      const usage = script === "server"
        ? /^用法:server\.ts \[ip\] \[port\] \[clients\],預設:127\.0\.0\.1 1935 5 \(port:0 到 65535,clients:正整數或 Infinity\)\n$/
        : /^用法:client\.ts \[ip\] \[port\] \[message\],預設:127\.0\.0\.1 1935 ".+\\n" \(port:1 到 65535\)\n$/;
      // Not tried, for the port may be taken.
      assert.match(read(`${script}.ts`), /ip = "127.0.0.1", port = "1935",/);
      for (const flag of ["-h", "--help"]) {
        const { over } = start(runtime, script, [flag]);
        const { stdout, stderr, exit } = await over();
        assert.match(stdout, usage);
        assert.deepEqual([stderr, exit], ["", 0]);
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
      await Promise.all(wrong.map(async (args) => {
        const { over } = start(runtime, script, args);
        const { stdout, stderr, exit } = await over();
        assert.match(stderr, usage, `${args}`);
        assert.deepEqual([stdout, exit], ["", 2], `${args}`);
      }));
    });
  }

  // ---- What a reader lifts out: other programs in the place of the story

  const lifted = on("lifted out");
  const instead = (script: string, from: string, story: string) => {
    const source = read(script);
    const at = source.indexOf(from);
    const below = source.slice(source.indexOf("\n/**", at));
    return source.slice(0, at) + story + below;
  };
  const serveInstead = (story: string) =>
    serve(runtime, { source: instead("server.ts", "let count", story) });

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
    const client = await dial(port);
    await send(client, bytes.subarray(0, 4));
    await stdout.until(bytes.subarray(0, 4));
    client.socket.end(bytes.subarray(4));
    await stdout.until(bytes.subarray(-8));
    await dial(port);
    assert((await stdout.all()).equals(bytes), "something is lost");
    assert.equal(`${await client.received.all()}`, "late");
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

  lifted("a connect that fails is caught, and all goes on", async () => {
    const story = `
      while ((await read(sock, 8192)).length > 0);
      await connect(ip, Number(message)).catch(({ code }) => echo(code));
      await write(sock, "late");
      sock.close();
    `;
    const source = instead("client.ts", "// socket_write", story);
    const message = `${await closedPort(runtime)}`;
    const program = await call(runtime, message, { source });
    program.socket.end("all");
    assert.equal(`${await program.received.all()}`, "late");
    assert.equal(`${await program.stdout.all()}`, "ECONNREFUSED");
  });

  // ---- README.md, with whose commands all of the above was started

  const readme = on("README");
  const types = runtime.name === "deno" ? ["--check", "--quiet"] : [];
  const checked = { command: [...runtime.command, ...types] };

  readme("what you see", async () => {
    const [ofServer, ofClient] = blocks(read("README.md"), "console")
      .map((block) => block.slice(block.indexOf("\n") + 1));
    const { port, over } = await serve(runtime, { clients: 1 });
    const args = ["127.0.0.1", `${port}`];
    const told = await start(runtime, "client", args).over();
    const lines = told.stderr.replace(`${port}`, "1935").split("\n");
    lines.splice(3, 0, told.stdout.trim());
    assert.equal(`${lines.join("\n")}${told.exit}\n`, ofClient);
    const said = await over();
    const shown = said.stderr.replace(`${port}`, "1935") + said.stdout;
    assert.equal(`${shown}${said.exit}\n`, ofServer);
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
    const { port, over } = await serve(checked, { clients: 2, source });
    const first = await greeted(port);
    await talk(port, "2");
    await send(first, "1");
    const { stdout, exit } = await over();
    const [line, talkback] = ["測試成功了啊\n", "收到的資訊:"];
    assert.equal(stdout, `${line}${line}${talkback}2\n${talkback}1\n`);
    assert.equal(exit, 0);
  });
}

const node = spawnSync("node", ["--version"], { encoding: "utf8" }).stdout ??
  "";
const [major = 0, minor = 0] = node.slice(1).split(".").map(Number);
const skip = !(major > 22 || major === 22 && minor >= 18);
for (const script of ["server", "client"] as const) {
  check(`${script} on Node.js: says what to run it with`, async () => {
    const program = start({ command: ["node"] }, script, []);
    const { stdout, stderr, exit } = await program.over();
    assert.match(stderr, /^.*bun .+deno run .+\n$/);
    assert.deepEqual([stdout, exit], ["", 1]);
  }, skip && "no Node.js from 22.18 on PATH");
}

// ---- What the tests are written in, and how it is cleared away

const leftovers: (() => void)[] = [];

/** A test that leaves nothing behind, and that fails rather than hangs. */
function check(
  title: string,
  body: () => Promise<void>,
  skip: string | false = false,
): void {
  const named = skip ? `${title} (skipped: ${skip})` : title;
  test(named, { skip, timeout: 60_000 }, async () => {
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
    stream.on("data", (data) => this.bytes = Buffer.concat([this.bytes, data]));
    for (const event of ["end", "error", "close"]) {
      stream.on(event, () => this.#over = true);
    }
    for (const event of ["data", "end", "error", "close"]) {
      stream.on(event, () => this.#changed());
    }
  }

  /** Waits till all of `part` has come. */
  async until(part: string | Buffer): Promise<void> {
    while (!this.bytes.includes(part)) {
      assert(!this.#over, `no "${part}" in "${this.bytes.subarray(-99)}"`);
      await this.#change();
    }
  }

  /** Waits for the end, and gives all that came. */
  async all(): Promise<Buffer> {
    while (!this.#over) await this.#change();
    return this.bytes;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#changed = resolve);
  }
}

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
  name: "server" | "client",
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
  const [stdout, stderr] = [child.stdio[1], child.stdio[2]].map((stream) =>
    new Inbox(stream instanceof Readable ? stream : Readable.from([]))
  );
  assert(stdout && stderr);
  /** All that there is to see, once it has ended. */
  const over = async () => ({
    stdout: `${await stdout.all()}`,
    stderr: `${await stderr.all()}`,
    exit: await exit,
  });
  return { folder, stdout, stderr, kill, exit, over };
}

/**
 * Gives a program the time to do what it should not: that in which a script
 * starts and ends ten times. What a test then finds does not hang on how long
 * that took, but how surely it finds a fault does.
 */
async function giveTime(runtime: Runtime): Promise<void> {
  for (let i = 0; i < 10; i++) await start(runtime, "server", ["-h"]).over();
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

/** A port on which nobody listens any more. */
async function closedPort(runtime: Runtime): Promise<number> {
  const { port, kill, exit } = await serve(runtime);
  kill("SIGKILL");
  await exit;
  return port;
}

/** Starts a client, and gives the other end of its connection too. */
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

/** A client of our own, which gets and sends what a test wants. */
interface Client {
  socket: net.Socket;
  received: Inbox;
}

async function dial(port: number): Promise<Client> {
  const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true });
  leftovers.push(() => socket.destroy());
  const received = new Inbox(socket);
  await once(socket, "connect");
  return { socket, received };
}

/** Connects a client, and waits for its turn. */
async function greeted(port: number): Promise<Client> {
  const client = await dial(port);
  await client.received.until(greeting);
  return client;
}

/** Writes, and waits till the system has taken it. */
function send(
  { socket }: Pick<Client, "socket">,
  data: string | Uint8Array,
): Promise<void> {
  return new Promise((resolve) => socket.write(data, () => resolve()));
}

/** The whole conversation of a client that sends `data`; what it got. */
async function talk(port: number, data: string): Promise<string> {
  const client = await dial(port);
  await send(client, data);
  return `${await client.received.all()}`;
}

/** Resets a client's connection, and waits till that is done. */
async function reset({ socket, received }: Client): Promise<void> {
  socket.resetAndDestroy();
  await received.all();
}

/** Sends without end, as fast as it is taken; gives how many bytes it was. */
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

/** The blocks of code of one language in a text of Markdown. */
function blocks(text: string, language: string): string[] {
  return text.split("```" + language + "\n").slice(1)
    .map((rest) => rest.slice(0, rest.indexOf("```")));
}

/** server.ts with the edits of one of README.md's exercises. */
function exercise(number: number): string {
  const text = read("README.md").split(/^\*\*\d\. /m)[number] ?? "";
  return blocks(text, "diff").reduce((source, block) => {
    const without = (sign: string) =>
      block.split("\n").filter((line) => line[0] !== sign)
        .map((line) => line.slice(1)).join("\n");
    const [head, tail, ...others] = source.split(without("+"));
    assert(tail !== undefined && others.length === 0, `not once: ${block}`);
    return head + without("-") + tail;
  }, read("server.ts"));
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
    const asked = name === "bun"
      ? spawnSync(file, ["-e", "console.log(process.execPath)"])
      : spawnSync(file, ["eval", "console.log(Deno.execPath())"]);
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
