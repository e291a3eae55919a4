/**
 * What server.ts and client.ts promise, tried from outside as a user starts
 * them, and what README.md shows of them: `bun test` or `deno test -A`.
 *
 * The runtime that runs this file is tried and, if it is on PATH, the other one
 * too, and every pairing of the two. The tests wait for bytes, for an end, or
 * for an exit. To show that something does not happen, a test waits as long as
 * a script takes to start ten times. What a system decides is tried only there.
 */
const tests: (() => Promise<unknown>)[] = []; // each starts one
const runtimes = findRuntimes();

for (const server of runtimes) {
  for (const client of runtimes) {
    const pair = `a server on ${server.name}, a client on ${client.name}`;
    check(`${pair}: greeting and echo`, async () => {
      const { port, ends } = await serve(server, { clients: 3 });
      for (const message of ["你好\n", "\u001b[1m", ""]) {
        const args = ["127.0.0.1", `${port}`, message];
        await start(client, "client", args).ends(0, "測試成功!\n");
      }
      await ends(
        0,
        "測試成功了啊\n收到的資訊:你好\n\n" +
          "測試成功了啊\n收到的資訊:\u001b[1m\n" +
          "測試成功了啊\n收到的資訊:\n",
      );
    });
  }
}

// ---- One runtime at a time: what the tests are written in stands below them

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { Buffer } from "node:buffer";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import process from "node:process";
import type { Readable } from "node:stream";
import { after, test } from "node:test";
import { setTimeout as timer } from "node:timers/promises";

const linux = process.platform === "linux";
const windows = process.platform === "win32";
const wine = "WINEHOMEDIR" in process.env; // Windows' programs, run on Linux
const reset = linux ? "" : "what a reset leaves to read is the system's";
const greeting = "測試成功!\n";

/** What the server prints of a client that sent `data`. */
const printed = (data: string) => `測試成功了啊\n收到的資訊:${data}\n`;

/** What stderr tells of a step that fails, behind what stands `before` it. */
function failed(step: string, why = "", before = /^.+\n/): RegExp {
  const call = step === "echo" ? step : `${step}\\(\\)`;
  const reason = step === "socket_accept" ? "failed: reason" : "失敗的原因是";
  return new RegExp(`${before.source}${call} ${reason}: ?(?=\\S).*${why}.*\n$`);
}

/** 8 MiB of every byte and of no valid UTF-8, no two parts of it alike. */
const bytes = Buffer.from(
  Uint32Array.from({ length: 2 ** 21 }, (_, i) => ~i).buffer,
);

/** What a script may take in, in bytes: Linux alone may keep 37 million. */
const bounded = 50_000_000;

for (const runtime of runtimes) {
  const on = (script: string) => (title: string, body: Body, skip?: string) =>
    check(`${script} on ${runtime.name}: ${title}`, body, skip);
  const server = on("server");
  const client = on("client");
  const both = on("both");

  // ---- The server

  server("serves five in order, reads once, 8192 bytes at most", async () => {
    const { port, stdout, stderr, exit } = await serve(runtime);
    const first = await greeted(port);
    const pieces = await dial(port, "piece ");
    const third = await dial(port);
    third.socket.end("3"); // has sent all, and can still receive
    const fourth = await dial(port);
    fourth.socket.end(); // sends nothing
    await dial(port, bytes.subarray(0, 10_000));
    const waiting = await dial(port, "6");
    await giveTime(runtime); // for nothing of the pieces may be read yet
    await send(pieces, "by piece");
    await send(first, "1");
    for (const { received } of [first, pieces, third, fourth]) {
      assert.equal(`${await received.all()}`, greeting);
    }
    const all = ["1", "piece by piece", "3", "", ""].map(printed).join("");
    const parts = [Buffer.from(all.slice(0, -1)), bytes.subarray(0, 8192)];
    const expected = Buffer.concat([...parts, Buffer.from("\n")]);
    assert.deepEqual(await stdout.all(), expected);
    assert.equal(`${await stderr.all()}`, `正在監聽 127.0.0.1:${port}\n`);
    assert.equal(await exit, 0);
    assert.equal(`${await waiting.received.all()}`, "");
  });

  // Deno's accept() rejects for a client that is gone: it has no turn.
  const [late, code] = runtime.name === "bun"
    ? ["socket_write", "ECONNRESET"]
    : ["socket_accept", "ENOTCONN"];
  const resets = [
    ["in its turn", "", "socket_read", "ECONNRESET"],
    // In the moment of the write, Bun gives no code.
    ["as its turn comes", "2", late, runtime.name === "bun" ? "" : code],
    ["while it waits", "2", late, code],
    ["while it waits and has said nothing", "", late, code],
  ] as const;
  for (const [moment, said, step, code] of resets) {
    server(`outlives a client that resets ${moment}`, async () => {
      const clients = step === "socket_accept" ? 2 : 3;
      const { port, kill, stdout, ends } = await serve(runtime, { clients });
      const first = await greeted(port);
      const gone = await dial(port);
      const last = await dial(port, "3");
      await send(gone, said);
      if (moment === "as its turn comes") kill("SIGSTOP");
      if (!moment.startsWith("while")) await send(first, "1");
      if (moment === "in its turn") await gone.received.until(greeting);
      gone.socket.resetAndDestroy();
      await gone.received.all(); // it has been reset
      if (moment === "as its turn comes") kill("SIGCONT");
      if (moment.startsWith("while")) {
        await giveTime(runtime); // to hear of it
        await send(first, "1");
      }
      if (linux || moment === "in its turn") {
        const turn = clients === 3 ? printed(said) : "";
        await ends(0, printed("1") + turn + printed("3"), failed(step, code));
      } else await stdout.until("3"); // if it has a turn is the system's
      assert.equal(`${await last.received.all()}`, greeting);
    }, said ? reset : "");
  }

  for (const last of ["EMFILE", "closed"]) {
    server(`passes over who is gone, and ends if ${last}`, async () => {
      const gone = ["ENOTCONN", "EINVAL", "ECONNABORTED", "ECONNRESET"];
      const codes = JSON.stringify([...gone, "", last]);
      const next = `(async (code = codes.shift()) => {
        if (code === "closed") sock.close();
        else if (code) throw Object.assign(Error("as told"), { code });
        return await sock.accept();
      })()`;
      const source = read("server.ts").replace("sock.accept()", next)
        .replace("let count", `const codes = ${codes};\nlet count`);
      const { port, ends } = await serve(runtime, { source });
      assert.equal(await talk(port, "1"), greeting);
      const told = gone.join("\\)\nsocket_accept.+\\(");
      const before = new RegExp(`^.+\nsocket_accept.+\\(${told}\\)\n`);
      const why = last === "closed" ? "" : last;
      await ends(1, printed("1"), failed("socket_accept", why, before));
    });
  }

  if (runtime.name === "deno") { // Bun.listen() has no backlog
    server("lets no more wait than PHP does", async () => {
      const { port } = await serve(runtime);
      await greeted(port);
      let connected = 0;
      for (let i = 0; i < 12; i++) dial(port).then(() => connected++, () => {});
      await giveTime(runtime);
      assert(connected <= 5, `${connected}`); // one more than asked
    }, linux ? "" : "how many wait is the system's");
  }

  server("greets before it prints, and ends if stdout is full", async () => {
    const full = ["sh", "-c", 'exec "$0" "$@" >/dev/full'] as const;
    const command = [...full, ...runtime.command] as const;
    const { port, ends } = await serve({ command });
    assert.equal(await talk(port, ""), greeting);
    await ends(1, "", failed("echo", "ENOSPC"));
  }, linux ? "" : "there is no /dev/full");

  // ---- The client

  client("sends its message, and prints each part as it comes", async () => {
    const program = await call(runtime, "說\n");
    await program.received.until("說\n");
    for (let i = 0; i < 3; i++) { // one byte alone is no end yet
      await send(program, bytes.subarray(i, i + 1));
      await program.stdout.until(bytes.subarray(0, i + 1));
    }
    assert(!program.received.over, "it closed its sending side");
    program.socket.end(bytes.subarray(3, 10_000));
    assert.deepEqual(await program.stdout.all(), bytes.subarray(0, 10_000));
    await program.ends(0, /^/, /^([^a-z]+\n)+$/);
    assert.equal(`${await program.received.all()}`, "說\n");
  });

  client("has nothing to send: ends its side, and reads on", async () => {
    const { socket, received, ends } = await call(runtime, "");
    assert.equal(`${await received.all()}`, "");
    socket.end("one");
    await ends(0, "one");
    const source = read("client.ts")
      .replace("sock.closeWrite()", 'Promise.reject(Error("as told"))');
    const failing = await call(runtime, "", source);
    await failing.ends(1, "", failed("socket_shutdown", "as told", /\n/));
  });

  // An argument is too short for what a socket takes at once, by default.
  const large = read("client.ts")
    .replace("write(sock, message)", 'write(sock, "x".repeat(8_000_000))');

  client("sends all, also to a server that has said all", async () => {
    const program = await call(runtime, "1", large);
    program.socket.end("one");
    program.received.stream.pause();
    await giveTime(runtime);
    program.received.stream.resume();
    assert.equal((await program.received.all()).length, 8_000_000);
    await program.ends(0, "one", /8000000/);
  }, wine ? "Wine does not send on behind a close" : "");

  client("prints what there is if it could not send all", async () => {
    const program = await call(runtime, "1", large);
    program.received.stream.pause();
    await send(program, "one");
    await giveTime(runtime);
    program.socket.resetAndDestroy();
    const said = runtime.name === "bun" // which gives no code here either
      ? /\nsocket_write\(\) 失敗的原因是:.+\n/
      : /\nsocket_write\(\) 失敗的原因是:.+ \(ECONNRESET\)\n/;
    await program.ends(1, "one", said);
  }, reset);

  const cut = linux ? ", and leaves no gap where a reset cuts it off" : "";
  client(`makes a server wait that sends without end${cut}`, async () => {
    const { socket, stdout, stderr, exit } = await call(runtime);
    stdout.stream.pause();
    const taken = flood(socket);
    await giveTime(runtime);
    assert(taken() < bounded, `it took ${taken()} bytes`);
    if (!cut) return;
    socket.resetAndDestroy();
    stdout.stream.resume();
    assert.equal(await exit, 1);
    const said = failed("socket_read", "ECONNRESET", /\n/);
    assert.match(`${await stderr.all()}`, said);
    const all = await stdout.all();
    assert(all.length > 2 ** 16, `only ${all.length} bytes`);
    for (let at = 0; at < all.length; at += bytes.length) {
      const part = all.subarray(at, at + bytes.length);
      assert(part.equals(bytes.subarray(0, part.length)), "there is a gap");
    }
  });

  if (runtime.name === "deno") { // Bun writes all bytes to any console
    client("shows on a Windows console what is no UTF-8", async () => {
      const there = 'build.os === "windows" && stdout.isTerminal()';
      const source = read("client.ts").replace(there, "true");
      const program = await call(runtime, "1", source);
      const [head, ...tail] = Buffer.from("好");
      await send(program, Buffer.from([0x31, 0xff, head ?? 0]));
      await program.stdout.until("1\ufffd");
      program.socket.end(Buffer.from([...tail, head ?? 0]));
      await program.ends(0, "1\ufffd好\ufffd");
    });
  }

  // ---- Both

  both("lose nothing if stdout is slow", async () => {
    const called = await call(runtime);
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
    called.stdout.stream.destroy();
    const served = await serve(runtime, { clients: Infinity });
    served.stdout.stream.destroy();
    const ended = served.exit.then(() => true);
    const talked = () => talk(served.port, "1").then(() => false, () => false);
    while (!await Promise.race([ended, talked()]));
    // It was a pipe, or one of a pair of sockets, or Deno's pipe on Windows.
    const said = failed("echo", "(EPIPE|ECONNRESET|os error 109)", /\n/);
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
      for (const { kill } of [called, served]) {
        assert.equal(await kill(signal), windows ? 1 : signal);
      }
      await serve(runtime, { port: served.port });
    });
  }

  // Under Wine, Bun takes a refused connection for one that was made.
  const refused = wine && runtime.name === "bun" ? "; Wine refuses nobody" : "";

  const failing = [
    ["server", "127.0.0.1", "taken", failed("socket_bind", "EADDRINUSE", /^/)],
    ["server", "no..such", 65535, failed("socket_bind", "", /^/)],
    ["client", "127.0.0.1", "free", failed("socket_connect", "ECONNREFUSED")],
    ["client", "no..such", 65535, failed("socket_connect")],
    ["client", "no..such", 1, failed("socket_connect")],
  ] as const;
  for (const [script, ip, state, said] of failing) {
    on(script)(`says which step fails on ${ip} ${state}, and why`, async () => {
      const { port, kill } = await serve(runtime);
      if (state === "free") await kill("SIGKILL");
      const args = [ip, `${typeof state === "string" ? port : state}`];
      const program = start(runtime, script, args);
      await program.ends(1, "", said);
      assert.deepEqual(fs.readdirSync(program.folder), [`${script}.ts`]);
      assert.doesNotMatch(read(`${script}.ts`), /\b(import|require)\b/);
    }, state === "free" ? refused : "");
  }

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
      const ports = ["-1", "65536", "1e3", "0x50", "80.0", "http", "-h", ""];
      const counts = ["0 0", "0 -1", "0 1.5", "0 1e1", "0 all", "0 "];
      const wrong = [...ports, ...script === "server" ? counts : ["0"]]
        .map((rest) => `127.0.0.1 ${rest}`)
        .concat("8080", "", "127.0.0.1 80 5 6");
      await Promise.all(wrong.map(async (args) => {
        await start(runtime, script, args.split(" ")).ends(2, "", usage);
      }));
    });
  }

  // ---- What a reader lifts out: other programs in the place of the story

  const lifted = on("lifted out");
  const serveInstead = (story: string) =>
    serve(runtime, { source: instead("server")(story) });

  lifted("a second read gives the rest, and one can still write", async () => {
    const { port, stdout } = await serveInstead(`
      const msgsock = await accept(sock);
      await echo(await read(msgsock, 4));
      let buf;
      while ((buf = await read(msgsock, 9999)).length > 0) await echo(buf);
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
  }, reset);

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
    assert.deepEqual(await stdout.all(), bytes.subarray(0, 8));
  });

  lifted("reading while writing megabytes to a slow reader", async () => {
    const { port, stdout } = await serveInstead(`
      const msgsock = await accept(sock);
      const reading = read(msgsock, 8192);
      const writing = write(msgsock, "x".repeat(8_000_000) + "end");
      await Promise.all([echo(await reading, "2", "3"), echo("4", "5", "6")]);
      await writing;
      await read(msgsock, 8192);
      for (const conn of [msgsock, sock]) conn.close();
    `);
    const client = await dial(port);
    client.received.stream.pause();
    await giveTime(runtime);
    await send(client, "1");
    await stdout.until("123456"); // no parts mixed
    client.received.stream.resume();
    await client.received.until("end");
    client.socket.end();
    assert.equal((await client.received.all()).length, 8_000_003);
  });

  lifted(`connect in the server, listen in the client${refused}`, async () => {
    const [ours, theirs] = [definitions("server"), definitions("client")];
    const talk = (listener: string) => `
      const own = ${listener}.addr.port;
      const there = await connect(ip, own);
      const here = await accept(${listener});
      await write(there, "ok");
      await there.closeWrite();
      await echo(await read(here, 8192), await read(here, 8192));
      await write(here, ", ended");
      await echo(await read(there, 8192));
      for (const conn of new Set([there, here, ${listener}, sock])) conn.close();
      ${refused ? "" : "await connect(ip, own).catch(({code}) => echo(code));"}
    `;
    const said = refused ? "ok, ended" : "ok, endedECONNREFUSED";
    const { ends } = await serveInstead(talk("sock") + theirs.get("connect"));
    await ends(0, said);
    const source = instead("client")(`
      while ((await read(sock, 8192)).length > 0);
      await new Promise((resolve) => setTimeout(resolve)); // Bun hears of it
      await write(sock, "late");
      const listener = await listen(ip, 0);
      ${talk("listener")} ${ours.get("listen")} ${ours.get("accept")}
    `);
    const { socket, received, ...called } = await call(runtime, "", source);
    socket.end("all");
    await called.ends(0, said);
    assert.equal(`${await received.all()}`, "late");
  });

  lifted("bytes go into what takes bytes, and many may wait", async () => {
    const source = instead("server")(`
      for (let i = 0; i < 100; i++) await greet(await accept(sock));
      sock.close();
      async function greet(msgsock: Conn) {
        const buf = await read(msgsock, 8192);
        await crypto.subtle.digest("SHA-256", buf);
        await echo(await new Response(buf).text(), await new Blob([buf]).text());
        msgsock.close();
      }
    `).replace(", tcpBacklog: 4", ", reusePort: false");
    const { port, stdout } = await serve(runtime, { source });
    const many = Array.from({ length: 100 }, () => dial(port, "1"));
    for (const { received } of await Promise.all(many)) await received.all();
    assert.equal(`${await stdout.all()}`, "1".repeat(200));
  });

  // ---- README.md, with whose commands all of the above was started

  const readme = on("README");

  readme("what you see", async () => {
    const [english = "", chinese] = blocks("console");
    assert.equal(english, chinese);
    const { port, ...served } = await serve(runtime, { clients: 1 });
    const client = start(runtime, "client", ["127.0.0.1", `${port}`]);
    const lines = `${await client.stderr.all()}`.split("\n");
    lines.splice(3, 0, `${await client.stdout.all()}`.trim());
    const printed = `${await served.stderr.all()}${await served.stdout.all()}`;
    const [, ...shown] = english.split(/^\$ .+\n/m);
    assert.deepEqual(
      [printed, lines.join("\n")].map((all) => all.replace(`${port}`, "1935")),
      shown,
    );
  });

  readme("what the exercises say", async () => {
    const first = await serve(runtime, { source: exercise(1) });
    assert.equal(await talk(first.port, "1"), `${greeting}收到的資訊:1\n`);
    const { port } = await serve(runtime, { source: exercise(2) });
    const { socket, received } = await greeted(port);
    socket.end(bytes);
    const all = Buffer.concat([Buffer.from(greeting), bytes]);
    assert((await received.all()).equals(all), "it is not the same");
    const args = ["127.0.0.1", `${port}`, "-h"]; // a message like any other
    const fourth = start(runtime, "client", args, exercise(4));
    await fourth.ends(0, `${greeting}-h`);
    const third = await serve(runtime, { clients: 2, source: exercise(3) });
    const waiting = await greeted(third.port);
    await talk(third.port, "2");
    await send(waiting, "1");
    const lines = "測試成功了啊\n測試成功了啊\n收到的資訊:2\n收到的資訊:1\n";
    await third.ends(0, lines);
  });

  readme("lineSplitter() makes lines of a stream", async () => {
    const { port, ends } = await serveInstead(`
      const msgsock = await accept(sock);
      const split = lineSplitter();
      while (true) {
        for (const line of split(await read(msgsock, 8192))) await echo(line);
      }
      ${blocks("ts")}
    `);
    const [head, ...tail] = Buffer.from("好\n\n二\r\n");
    const client = await dial(port, Buffer.from([head ?? 0]));
    await giveTime(runtime); // for half a character to be read
    await send(client, Buffer.from(tail));
    await send(client, "x".repeat(99_999));
    await ends(1, "好二", /this line has no end/);
  });
}

// ---- Without a runtime, or without the right one

check("what both scripts have, they have word for word", () => {
  const [ours, theirs] = [definitions("server"), definitions("client")];
  const shared = [...ours.keys()].filter((name) => name && theirs.has(name));
  for (const name of shared) {
    assert.equal(ours.get(name), theirs.get(name), `${name} differs`);
  }
  assert(shared.length > 9);
});

const types = spawnSync("node", ["-p", "process.features.typescript"]);
const old = !`${types.stdout}`.startsWith("strip");
check("on Node.js, both say what to run them with", async () => {
  for (const script of ["server", "client"] as const) {
    const program = start({ command: ["node"] }, script, []);
    await program.ends(2, "", /^.*bun .+deno run .+\n$/);
  }
}, old ? "no Node.js from 22.18 on PATH" : "");

const deno = runtimes.find(({ name }) => name === "deno");
if (deno) {
  check("no program that was made of a script has a type error", async () => {
    for (const start of tests.slice(0, -1)) await start(); // makes them all
    const checked = spawnSync(deno.command[0], ["check", "--quiet", root]);
    assert.equal(checked.status, 0, `${checked.stderr}`);
  });
}

// ---- What the tests are written in, and how it is cleared away

/** The folder of each program that was started, alone in it. */
const programs = new Map<string, string>();
const root = fs.mkdtempSync(`${tmpdir()}/socket-`);
after(() => fs.rmSync(root, { recursive: true }));

/** What is to be cleared away when the test that is running has ended. */
const leftovers = new AsyncLocalStorage<(() => unknown)[]>();

type Body = () => Promise<void> | void;

/**
 * A test that leaves nothing behind, and that fails rather than hangs. Bun and
 * Deno run one after another, so each starts the next three beside it.
 */
function check(title: string, body: Body, skip = ""): void {
  if (skip) return void test(`${title} (skipped: ${skip})`, { skip: true });
  let failed: Promise<unknown>;
  const at = tests.push(() => failed ??= leftovers.run([], failure, body)) - 1;
  test(title, { timeout: 200_000 }, async () => {
    const four = tests.slice(at, at + 4).map((start) => start());
    const error = await four[0];
    if (error) throw await Promise.all(four).then(() => error);
  });
}

/** Runs a test, clears away, and returns why it failed, if it did. */
async function failure(body: Body): Promise<unknown> {
  try {
    const late = timer(30_000, "it hangs", { ref: false });
    assert.equal(await Promise.race([body(), late]), undefined);
  } catch (error) {
    return error;
  } finally {
    for (const clear of leftovers.getStore()?.reverse() ?? []) await clear();
  }
}

/** Clears away when the test that calls this is over, the newest first. */
function leave(clear: () => unknown): void {
  leftovers.getStore()?.push(clear);
}

/** Keeps what a stream brings. */
class Inbox {
  bytes: Buffer = Buffer.alloc(0);
  over = false;
  #changed = () => {};

  constructor(readonly stream: Readable) {
    for (const event of ["data", "end", "error", "close"]) {
      stream.on(event, (data) => {
        if (event === "data") this.bytes = Buffer.concat([this.bytes, data]);
        else this.over = true;
        this.#changed();
      });
    }
  }

  /** Waits till all of `part` has come. */
  async until(part: string | Buffer): Promise<void> {
    let from = 0;
    while (!this.bytes.includes(part, from)) {
      assert(!this.over, `no "${part}" in "${this.bytes.subarray(-99)}"`);
      from = Math.max(0, this.bytes.length - Buffer.byteLength(part));
      await this.#change();
    }
  }

  /** Waits for the end, and returns all that came. */
  async all(): Promise<Buffer> {
    while (!this.over) await this.#change();
    return this.bytes;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#changed = resolve);
  }
}

type Script = "server" | "client";
type Data = string | Uint8Array;
type Text = string | RegExp;

/** What stands before the name of a script: a file, and its options. */
type Runtime = { command: readonly [string, ...string[]] };

/** Starts a script, or what stands in its place, alone in a folder. */
function start(
  { command: [file, ...before] }: Runtime,
  name: Script,
  args: string[],
  source = read(`${name}.ts`),
) {
  const folder = programs.get(source) ?? fs.mkdtempSync(`${root}/`);
  if (!programs.has(source)) fs.writeFileSync(`${folder}/${name}.ts`, source);
  programs.set(source, folder);
  const child = spawn(file, [...before, `${name}.ts`, ...args], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    // As on a terminal, where what is printed must be the same.
    env: { ...process.env, FORCE_COLOR: "1", NO_COLOR: undefined },
  });
  const { pid } = child;
  assert(pid);
  /** The exit code, or the name of the signal that ended it. */
  const exit = once(child, "exit").then(([code, signal]) => code ?? signal);
  // Not child.kill(), which on Deno does nothing the second time.
  const kill = (signal: string) => {
    child.exitCode ?? child.signalCode ?? process.kill(pid, signal);
    return exit;
  };
  leave(() => kill("SIGKILL"));
  const stdout = new Inbox(child.stdout);
  const stderr = new Inbox(child.stderr);
  /** Waits for the end, and checks the exit code and all that was printed. */
  const ends = async (code: number, out: Text, err: Text = /^/) => {
    const texts = [`${await stdout.all()}`, `${await stderr.all()}`];
    const fitting = [out, err].map((text, i) =>
      text instanceof RegExp && text.test(texts[i] ?? "") ? texts[i] : text
    );
    assert.deepEqual([await exit, ...texts], [code, ...fitting]);
  };
  return { folder, stdout, stderr, kill, exit, ends };
}

/** Gives a program time to do what it should not: a script starts ten times. */
async function giveTime({ command: [file, ...before] }: Runtime) {
  const args = [...before, `${import.meta.dirname}/server.ts`, "-h"];
  for (let i = 0; i < 10; i++) {
    await once(spawn(file, args, { stdio: "ignore" }), "exit");
  }
}

type Wishes = { source?: string; port?: number; clients?: number };

/** Starts a server, on a free port or on a given one, and waits for it. */
async function serve(runtime: Runtime, wishes: Wishes = {}) {
  const { source, port = 0, clients } = wishes;
  const args = ["127.0.0.1", `${port}`, ...clients ? [`${clients}`] : []];
  const program = start(runtime, "server", args, source);
  await program.stderr.until("\n");
  const [line = ""] = `${program.stderr.bytes}`.split("\n");
  assert.match(line, /^正在監聽 127\.0\.0\.1:\d+$/);
  return { ...program, port: Number(line.split(":")[1]) };
}

/** Starts a client, and returns the other end of its connection too. */
async function call(runtime: Runtime, message?: string, source?: string) {
  const listener = net.createServer({ allowHalfOpen: true });
  leave(() => listener.close());
  await once(listener.listen(0, "127.0.0.1"), "listening");
  const address = listener.address();
  assert(address !== null && typeof address === "object");
  const args = ["127.0.0.1", `${address.port}`];
  if (message !== undefined) args.push(message);
  const program = start(runtime, "client", args, source);
  const [socket]: net.Socket[] = await once(listener, "connection");
  assert(socket);
  leave(() => socket.destroy());
  return { ...program, socket, received: new Inbox(socket) };
}

/** Connects a client of our own, which sends `data`. */
async function dial(port: number, data?: Data) {
  const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true });
  leave(() => socket.destroy());
  const client = { socket, received: new Inbox(socket) };
  await once(socket, "connect");
  if (data !== undefined) await send(client, data);
  return client;
}

/** Connects a client, and waits for its turn. */
async function greeted(port: number) {
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

/** Sends `bytes` again and again; returns how many the system has taken. */
function flood(socket: net.Socket): () => number {
  let taken = 0;
  const more = () => {
    const block = bytes.subarray(taken % bytes.length).subarray(0, 2 ** 16);
    taken += block.length;
    socket.write(block, (error) => error || more());
  };
  more();
  return () => taken;
}

/** A file of the project, also as git writes it on Windows. */
function read(name: string): string {
  return fs.readFileSync(new URL(name, import.meta.url), "utf8")
    .replaceAll("\r\n", "\n");
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
  const name = /^(?:async )?(?:function|interface|type) (\w+)/m;
  const parts = read(`${script}.ts`).split(/\n\n(?=\S)/);
  return new Map(parts.map((text) => [name.exec(text)?.[1] ?? "", text]));
}

/** The blocks of code of one language, in README.md or in a part of it. */
function blocks(language: string, text = read("README.md")): string[] {
  return text.split("```" + language + "\n").slice(1)
    .map((rest) => rest.slice(0, rest.indexOf("```")));
}

/** A script with the edits of one of README.md's exercises. */
function exercise(number: number): string {
  const text = read("README.md").split(/^### Exercise \d/m)[number] ?? "";
  const edits = blocks("diff", text).flatMap((all) => all.split(/^@@\n/m));
  return edits.reduce((source, edit) => {
    const without = (sign: string) =>
      edit.split("\n").filter((line) => line[0] !== sign)
        .map((line) => line.slice(1)).join("\n");
    const [head, tail, ...others] = source.split(without("+"));
    assert(tail !== undefined && others.length === 0, `not once: ${edit}`);
    return head + without("-") + tail;
  }, read(number === 4 ? "client.ts" : "server.ts"));
}

/**
 * The runtimes to be had, each with what README.md says to start a script with;
 * one that is missing is a test that is skipped.
 */
function findRuntimes() {
  const commands = [["bun", "-e"], ["deno", "eval", "run", "--allow-net"]];
  return commands.flatMap(([name = "", run = "", ...words]) => {
    const command = [name, ...words, "server.ts"].join(" ");
    assert(read("README.md").includes(`\n${command}\n`), command);
    // What is on PATH may be a wrapper, which would not pass a signal on: the
    // runtime itself is asked where it is.
    const file = name in process.versions ? process.execPath : name;
    const asked = spawnSync(file, [run, "console.log(process.execPath)"]);
    if (asked.status !== 0) {
      check(name, () => {}, "it is not on PATH");
      return [];
    }
    return [{ name, command: [`${asked.stdout}`.trim(), ...words] as const }];
  });
}
