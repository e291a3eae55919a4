/**
 * What server.ts and client.ts promise, tried from outside as a user starts
 * them, and what README.md shows of them: `bun test` or `deno test -A`.
 *
 * The runtime that runs this file is tried and, if it is on PATH, the other one
 * too, and every pairing of the two. The tests wait for bytes, for an end or for
 * an exit. To show that something does not happen, a test waits as long as a
 * script takes to start three times. What a system decides is tried only there.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import process from "node:process";
import type { Readable } from "node:stream";
import { test } from "node:test";
import { setTimeout as timer } from "node:timers/promises";

const runtimes = findRuntimes();
const greeting = "測試成功!\n";

/** What the server prints for a client that sent `message`. */
const printed = (message: string) => `測試成功了啊\n收到的資訊:${message}\n`;

for (const serving of runtimes) {
  for (const calling of runtimes) {
    const pair = `a server on ${serving.name}, a client on ${calling.name}`;
    check(`${pair}: greeting and echo`, async () => {
      const server = await startServer(serving, { clients: 3 });
      const messages = ["你好\n", "\u001b[1m", ""];
      for (const message of messages) {
        const args = ["127.0.0.1", `${server.port}`, message];
        await startScript(calling, "client", args).ends(0, greeting);
      }
      await server.ends(0, messages.map(printed).join(""));
    });
  }
}

const scripts = ["server", "client"] as const;
const linux = process.platform === "linux";
const windows = process.platform === "win32";
const wine = "WINEHOMEDIR" in process.env; // Windows' programs, run on Linux

// Why a test is skipped; "" if it is not.
const afterReset = linux ? "" : "what a reset leaves to read is the system's";
const queueLength = linux ? "" : "how many wait is the system's";
const fullDevice = linux ? "" : "there is no /dev/full";
const afterClose = wine ? "Wine does not send on after a close" : "";

/** 8 MiB of every byte and of no valid UTF-8, no two parts of it alike. */
const binary = Buffer.from(
  Uint32Array.from({ length: 2 ** 21 }, (_, i) => ~i).buffer,
);

for (const runtime of runtimes) {
  const on = (part: string) => (title: string, body: Body, skip?: string) =>
    check(`${part} on ${runtime.name}: ${title}`, body, skip);
  const theServer = on("server");
  const theClient = on("client");
  const both = on("both");
  const liftedOut = on("lifted out");
  const readme = on("README");
  const bun = runtime.name === "bun";

  // ---- The server

  theServer("serves five in order, and reads once", async () => {
    const server = await startServer(runtime);
    const first = await connectInTurn(server.port);
    const inPieces = await connect(server.port, "piece ");
    const halfClosed = await connect(server.port);
    halfClosed.socket.end("3"); // has sent all, and can still receive
    const silent = await connect(server.port);
    silent.socket.end();
    const last = await connect(server.port, "5");
    const tooLate = await connect(server.port, "6");
    await giveTime(runtime); // to read a piece too early
    await send(inPieces, "by piece");
    await send(first, "1");
    for (const { received } of [first, inPieces, halfClosed, silent, last]) {
      assert.equal(await received.text(), greeting);
    }
    assert.equal(await tooLate.received.text(), "");
    const messages = ["1", "piece by piece", "3", "", "5"];
    await server.ends(0, messages.map(printed).join(""));
  });

  theServer("prints 8192 bytes at most, as they came", async () => {
    const server = await startServer(runtime, { clients: 1 });
    await connect(server.port, binary.subarray(0, 10_000));
    const [before = "", after = ""] = printed("|").split("|");
    const parts = [Buffer.from(before), binary.subarray(0, 8192)];
    const expected = Buffer.concat([...parts, Buffer.from(after)]);
    assert.deepEqual(await server.stdout.all(), expected);
  });

  theServer("outlives a client that resets in its turn", async () => {
    const server = await startServer(runtime, { clients: 2 });
    const gone = await connectInTurn(server.port);
    gone.socket.resetAndDestroy();
    assert.equal(await converse(server.port, "2"), greeting);
    const failure = "socket_read() 失敗的原因是:ECONNRESET";
    await server.ends(0, printed("") + printed("2"), failure);
  });

  // Bun has accepted who waits, so who is gone has a turn all the same. Deno's
  // accept() rejects.
  const turns = (said: string) => bun ? [said] : [];
  const step = bun
    ? "socket_write() 失敗的原因是"
    : "socket_accept() failed: reason";

  for (const said of ["2", ""]) {
    theServer(`outlives who waits, says "${said}" and resets`, async () => {
      const messages = ["1", ...turns(said), "3"];
      const server = await startServer(runtime, { clients: messages.length });
      const first = await connectInTurn(server.port);
      const gone = await connect(server.port, said);
      const last = await connect(server.port, "3");
      gone.socket.resetAndDestroy();
      await giveTime(runtime); // to hear of the reset
      await send(first, "1");
      assert.equal(await last.received.text(), greeting);
      const code = bun ? "ECONNRESET" : "ENOTCONN";
      await server.ends(0, messages.map(printed).join(""), `${step}:${code}`);
    }, afterReset);
  }

  theServer("outlives a client that resets as its turn comes", async () => {
    const messages = ["1", ...turns("2"), "3"];
    const server = await startServer(runtime, { clients: messages.length });
    const first = await connectInTurn(server.port);
    const gone = await connect(server.port, "2");
    const last = await connect(server.port, "3");
    server.kill("SIGSTOP");
    await send(first, "1");
    gone.socket.resetAndDestroy();
    await gone.received.all(); // it has been reset
    server.kill("SIGCONT");
    assert.equal(await last.received.text(), greeting);
    const code = bun ? "…" : "ENOTCONN"; // Bun has not heard why
    await server.ends(0, messages.map(printed).join(""), `${step}:${code}`);
  }, afterReset);

  theServer("passes over who is gone, and ends at other errors", async () => {
    const gone = ["ENOTCONN", "EINVAL", "ECONNABORTED", "ECONNRESET"];
    const acceptOrFail = `
      const codes = ${JSON.stringify([...gone, "", "EMFILE"])};
      async function acceptOrFail() {
        const code = codes.shift();
        if (code) throw Object.assign(Error("as told"), { code });
        return await sock.accept();
      }
      let count = 0;`;
    const calls = ["sock.accept()", "acceptOrFail()"];
    const edits = [calls, ["let count = 0;", acceptOrFail]];
    const server = await startServer(runtime, { edits });
    assert.equal(await converse(server.port, "1"), greeting);
    const failures = [...gone, "EMFILE"]
      .map((code) => `socket_accept() failed: reason:${code}`);
    await server.ends(1, printed("1"), ...failures);
  });

  if (!bun) { // Bun.listen() has no backlog
    theServer("lets as many wait as PHP does", async () => {
      const { port } = await startServer(runtime);
      await connectInTurn(port);
      let connected = 0;
      for (let i = 0; i < 12; i++) {
        connect(port).then(() => connected++, () => {}); // the end refuses some
      }
      await giveTime(runtime); // to let a sixth wait
      assert.equal(connected, 5); // Linux adds one to the backlog of 4
    }, queueLength);
  }

  theServer("greets before it prints, and ends if stdout is full", async () => {
    const toFull = ["sh", "-c", 'exec "$0" "$@" >/dev/full'];
    const command = [...toFull, ...runtime.command];
    const server = await startServer({ ...runtime, command });
    assert.equal(await converse(server.port, "1"), greeting);
    await server.ends(1, "", "echo 失敗的原因是:ENOSPC");
  }, fullDevice);

  theServer("says that its port is taken", async () => {
    const { port } = await startServer(runtime);
    const second = startScript(runtime, "server", ["127.0.0.1", `${port}`]);
    await second.ends(1, "", "socket_bind() 失敗的原因是:EADDRINUSE");
  });

  // ---- The client

  theClient("sends its message, and prints each part as it comes", async () => {
    const client = await startClient(runtime, { message: "說\n" });
    await client.received.until("說\n");
    for (let i = 0; i < 3; i++) { // one byte alone is no end yet
      await send(client, binary.subarray(i, i + 1));
      await client.stdout.until(binary.subarray(0, i + 1));
    }
    assert(!client.received.over, "it closed its sending side");
    client.socket.end(binary.subarray(3, 10_000));
    assert.deepEqual(await client.stdout.all(), binary.subarray(0, 10_000));
    assert.equal(await client.received.text(), "說\n");
    await client.ended(0);
  });

  theClient("has nothing to send: ends its side, and reads on", async () => {
    const client = await startClient(runtime, { message: "" });
    assert.equal(await client.received.text(), "");
    client.socket.end("one");
    await client.ends(0, "one");
  });

  theClient("says that it could not end its side", async () => {
    const failing = 'Promise.reject(Error("as told"))';
    const edits = [["sock.closeWrite()", failing]];
    const client = await startClient(runtime, { message: "", edits });
    await client.ends(1, "", "socket_shutdown() 失敗的原因是:…");
  });

  // More than a socket takes at once; an argument cannot be as long.
  const long = ["write(sock, message)", 'write(sock, "x".repeat(8_000_000))'];

  theClient("sends all, also to a server that has said all", async () => {
    const client = await startClient(runtime, { edits: [long] });
    client.socket.end("one");
    client.received.stream.pause();
    await giveTime(runtime); // to give up
    client.received.stream.resume();
    assert.equal((await client.received.all()).length, 8_000_000);
    await client.ends(0, "one");
    assert.match(await client.stderr.text(), /^已傳送 8000000 個位元組$/m);
  }, afterClose);

  theClient("prints what there is if it could not send all", async () => {
    const client = await startClient(runtime, { edits: [long] });
    client.received.stream.pause();
    await send(client, "one");
    await giveTime(runtime); // to fill the connection
    client.socket.resetAndDestroy();
    const code = bun ? "…" : "ECONNRESET"; // Bun has not heard why
    await client.ends(1, "one", `socket_write() 失敗的原因是:${code}`);
  }, afterReset);

  theClient("makes a server wait, and leaves no gap at a reset", async () => {
    const client = await startClient(runtime);
    client.stdout.stream.pause();
    await assertItStops(flood(client.socket), runtime);
    client.socket.resetAndDestroy();
    client.stdout.stream.resume();
    const all = await client.stdout.all();
    assert(all.length > 2 ** 16, `only ${all.length} bytes`);
    for (let at = 0; at < all.length; at += binary.length) {
      const part = all.subarray(at, at + binary.length);
      assert(part.equals(binary.subarray(0, part.length)), "there is a gap");
    }
    const { failures } = await client.ended(1);
    assert.deepEqual(failures, ["socket_read() 失敗的原因是:ECONNRESET"]);
  }, afterReset);

  if (!bun) { // Bun writes all bytes to any console
    theClient("shows on a Windows console what is no UTF-8", async () => {
      const there = 'build.os === "windows" && stdout.isTerminal()';
      const client = await startClient(runtime, { edits: [[there, "true"]] });
      const [head = 0, ...tail] = Buffer.from("好");
      await send(client, Buffer.from([0x31, 0xff, head]));
      await client.stdout.until("1\ufffd");
      client.socket.end(Buffer.from([...tail, head]));
      await client.ends(0, "1\ufffd好\ufffd");
    });
  }

  const refused = wine && bun ? "Bun under Wine takes it for a connection" : "";

  theClient("says that nobody listens", async () => {
    const { port, kill } = await startServer(runtime);
    await kill("SIGKILL");
    const client = startScript(runtime, "client", ["127.0.0.1", `${port}`]);
    await client.ends(1, "", "socket_connect() 失敗的原因是:ECONNREFUSED");
  }, refused);

  // ---- Both

  both("say which step fails if a name is wrong", async () => {
    const code = bun ? "ENOTFOUND" : "…";
    const server = startScript(runtime, "server", ["no..such", "65535"]);
    await server.ends(1, "", `socket_bind() 失敗的原因是:${code}`);
    for (const port of ["1", "65535"]) {
      const client = startScript(runtime, "client", ["no..such", port]);
      await client.ends(1, "", `socket_connect() 失敗的原因是:${code}`);
    }
  });

  both("lose nothing if stdout is slow", async () => {
    const client = await startClient(runtime);
    client.stdout.stream.pause();
    client.socket.end(binary);
    const server = await startServer(runtime, { clients: 40 });
    server.stdout.stream.pause();
    const messages = Array.from({ length: 40 }, (_, i) => `${i}|`.repeat(2000));
    const conversations = (async () => {
      for (const message of messages) await converse(server.port, message);
    })();
    await giveTime(runtime); // to fill the pipes
    for (const { stdout } of [client, server]) stdout.stream.resume();
    await conversations;
    await server.ends(0, messages.map(printed).join(""));
    assert((await client.stdout.all()).equals(binary), "something is lost");
  });

  both("end if stdout is closed", async () => {
    const client = await startClient(runtime);
    client.stdout.stream.destroy();
    flood(client.socket);
    const server = await startServer(runtime, { clients: Infinity });
    server.stdout.stream.destroy();
    let ended = false;
    server.exit.then(() => ended = true);
    while (!ended) await converse(server.port, "1").catch(() => {});
    for (const program of [client, server]) {
      const { failures } = await program.ended(1);
      // A pipe, one of a pair of sockets, or Deno's pipe on Windows.
      assert.match(failures.join(), /^echo 失敗的原因是:(EPIPE|ECONNRESET|…)$/);
    }
  });

  for (const signal of ["SIGINT", "SIGTERM"]) {
    both(`end at ${signal}, and the server starts again`, async () => {
      const client = await startClient(runtime, { message: "here" });
      await client.received.until("here");
      const server = await startServer(runtime, { clients: Infinity });
      for (let i = 0; i < 6; i++) await converse(server.port, "1");
      await connectInTurn(server.port);
      for (const { kill } of [client, server]) {
        assert.equal(await kill(signal), windows ? 1 : signal);
      }
      await startServer(runtime, { port: server.port });
    });
  }

  both("leave no file", async () => {
    const server = await startServer(runtime, { clients: 1 });
    const args = ["127.0.0.1", `${server.port}`];
    const client = startScript(runtime, "client", args);
    await client.ended(0);
    await server.ended(0);
    assert.deepEqual(fs.readdirSync(server.folder), ["server.ts"]);
    assert.deepEqual(fs.readdirSync(client.folder), ["client.ts"]);
  });

  for (const script of scripts) {
    on(script)("prints its usage if asked, or told wrong", async () => {
      const words = script === "server"
        ? ["clients", "5；port 是 0 到 65535；clients 是正整數或 Infinity。"]
        : ["message", '"你好,伺服器!\\n"；port 是 1 到 65535。'];
      const usage = `用法：bun ${script}.ts [ip] [port] [${words[0]}]` +
        `（或 deno run --allow-net ${script}.ts …）。要先寫 ip。` +
        `預設 127.0.0.1 1935 ${words[1]}`;
      for (const flag of ["-h", "--help"]) {
        await startScript(runtime, script, [flag]).ends(0, `${usage}\n`);
      }
      const ports = ["-1", "65536", "1e3", "0x50", "80.0", "http", "-h", ""];
      const counts = ["0 0", "0 -1", "0 1.5", "0 1e1", "0 all", "0 "];
      const wrong = [...ports, ...script === "server" ? counts : ["0"]]
        .map((rest) => `127.0.0.1 ${rest}`)
        .concat("8080", "", "127.0.0.1 80 5 6");
      await Promise.all(wrong.map(async (args) => {
        await startScript(runtime, script, args.split(" ")).ends(2, "", usage);
      }));
    });
  }

  // ---- What a reader lifts out: other programs in the place of the story

  liftedOut("a second read gives the rest; writing goes on", async () => {
    const story = `
      const msgsock = await accept(sock);
      await echo(await read(msgsock, 4));
      let buf;
      while ((buf = await read(msgsock, 9999)).length > 0) await echo(buf);
      const other = await accept(sock);
      await write(msgsock, "late");
      for (const conn of [msgsock, other, sock]) conn.close();
    `;
    const server = await startServer(runtime, { story });
    const client = await connect(server.port, binary.subarray(0, 4));
    await server.stdout.until(binary.subarray(0, 4));
    client.socket.end(binary.subarray(4));
    await server.stdout.until(binary.subarray(-8));
    await connect(server.port);
    assert((await server.stdout.all()).equals(binary), "something is lost");
    assert.equal(await client.received.text(), "late");
  });

  liftedOut("a reset after the end changes nothing", async () => {
    const story = `
      const msgsock = await accept(sock);
      await echo(await read(msgsock, 1));
      const other = await accept(sock);
      await echo(await read(msgsock, 9), await read(msgsock, 9));
      for (const conn of [msgsock, other, sock]) conn.close();
    `;
    const server = await startServer(runtime, { story });
    const { socket } = await connect(server.port, "123");
    await server.stdout.until("1");
    socket.end();
    await giveTime(runtime); // to hear of the end
    socket.resetAndDestroy();
    await giveTime(runtime); // to hear of the reset
    await connect(server.port);
    await server.ends(0, "123");
  }, afterReset);

  liftedOut("who sends without end waits for the next read", async () => {
    const story = `
      const msgsock = await accept(sock);
      const other = await accept(sock);
      await echo(await read(msgsock, 3));
      await read(other, 1);
      await echo(await read(msgsock, 5));
      for (const conn of [msgsock, other, sock]) conn.close();
    `;
    const server = await startServer(runtime, { story });
    const first = await connect(server.port);
    const other = await connect(server.port);
    const waiting = await connect(server.port);
    for (const { socket } of [first, waiting]) {
      await assertItStops(flood(socket), runtime);
    }
    await send(other, "1");
    assert.deepEqual(await server.stdout.all(), binary.subarray(0, 8));
  });

  liftedOut("the parts of one echo stay together", async () => {
    const story = `
      await Promise.all([echo("1", "2", "3"), echo("4", "5", "6")]);
      sock.close();
    `;
    const server = await startServer(runtime, { story });
    await server.ends(0, "123456");
  });

  liftedOut("accept rejects if the listener is closed", async () => {
    const story = `
      const waiting = accept(sock).catch(warn("socket_accept() failed: reason: "));
      sock.close();
      await waiting;
      await accept(sock).catch(die("socket_accept() failed: reason: "));
    `;
    const server = await startServer(runtime, { story });
    const failure = "socket_accept() failed: reason:…";
    await server.ends(1, "", failure, failure);
  });

  liftedOut("listen, accept and connect in one file", async () => {
    const story = `
      while ((await read(sock, 8192)).length > 0);
      await new Promise((resolve) => setTimeout(resolve)); // Bun hears of it
      await write(sock, "late");
      const listener = await listen(ip, 0);
      const there = await connect(ip, listener.addr.port);
      const here = await accept(listener);
      await write(here, "ok, ");
      await echo(await read(there, 8192));
      for (const conn of [sock, listener, there, here]) conn.close();
      await connect(ip, listener.addr.port).catch(({ code }) => echo(code));
      ${definition("server", "listen")}
      ${definition("server", "accept")}
    `;
    const client = await startClient(runtime, { message: "", story });
    client.socket.end("all");
    await client.ends(0, "ok, ECONNREFUSED");
    assert.equal(await client.received.text(), "late");
  }, refused);

  // ---- README.md, with whose commands all of the above was started

  readme("what you see", async () => {
    const [english = "", chinese] = blocks("console");
    assert.equal(english, chinese);
    const server = await startServer(runtime, { clients: 1 });
    const args = ["127.0.0.1", `${server.port}`];
    const client = startScript(runtime, "client", args);
    await client.ends(0, greeting);
    await server.ended(0);
    const served = await server.stderr.text() + await server.stdout.text();
    // On a terminal, the greeting stands before what tells how long it was.
    const called = await client.stderr.text();
    const seen = [served, called.replace("已收到", `${greeting}已收到`)]
      .map((text) => text.replace(`${server.port}`, "1935"));
    const [, ...shown] = english.split(/^\$ .+\n/m);
    assert.deepEqual(seen, shown);
  });

  readme("exercise 1: the client gets the talkback too", async () => {
    const server = await startServer(runtime, { edits: exercise(1) });
    const reply = `${greeting}收到的資訊:1\n`;
    assert.equal(await converse(server.port, "1"), reply);
  });

  readme("exercises 2 and 4: an echo server, and its client", async () => {
    const { port } = await startServer(runtime, { edits: exercise(2) });
    const { socket, received } = await connectInTurn(port);
    const sent = binary.subarray(0, 100_000); // read in many parts
    socket.end(sent);
    const expected = Buffer.concat([Buffer.from(greeting), sent]);
    assert.deepEqual(await received.all(), expected);
    const args = ["127.0.0.1", `${port}`, "-h"]; // a message like any other
    const source = edited("client", { edits: exercise(4) });
    const client = startScript(runtime, "client", args, source);
    await client.ends(0, `${greeting}-h`);
  });

  readme("exercise 3: several clients at once", async () => {
    const edits = exercise(3);
    const server = await startServer(runtime, { clients: 2, edits });
    const first = await connectInTurn(server.port);
    await converse(server.port, "2");
    await send(first, "1");
    await server.ends(0, `測試成功了啊\n${printed("2")}收到的資訊:1\n`);
  });

  // The functions under "Make your own", for another story.
  const functions = blocks("ts").join() + definition("client", "connect");

  readme("a proxy passes on both ways, and closes what it has", async () => {
    const backEnd = await listen();
    const story = `
      while (true) {
        proxy(await accept(sock)).catch(warn("proxy() 失敗的原因是:"));
      }
    ` + functions;
    const edits = [["8000", `${backEnd.port}`]];
    const { port } = await startServer(runtime, { story, edits });
    const connectThrough = async () => {
      const accepting = backEnd.accept();
      const client = await connect(port);
      return { client, behind: await accepting };
    };

    const { client, behind } = await connectThrough();
    client.received.stream.pause(); // is slow to read
    for (const { socket } of [client, behind]) socket.end(binary);
    assert((await behind.received.all()).equals(binary), "it is not the same");
    client.received.stream.resume();
    assert((await client.received.all()).equals(binary), "it is not the same");

    const reset = await connectThrough();
    await send(reset.client, "1");
    await reset.behind.received.until("1");
    reset.behind.socket.resetAndDestroy();
    await reset.client.received.all();

    const early = await connectThrough();
    early.behind.received.stream.pause();
    early.client.socket.write(binary);
    await send(early.behind, "bye");
    early.behind.socket.destroy(); // with bytes unread
    await early.client.received.all();

    backEnd.close();
    assert.equal(await converse(port, ""), "");
  }, afterClose);

  readme("within rejects if a read takes too long, which goes on", async () => {
    const story = `
      const msgsock = await accept(sock);
      const reading = read(msgsock, 8192);
      await within(1, reading).catch(warn("socket_read() 失敗的原因是:"));
      await echo(await within(20_000, reading));
      for (const conn of [msgsock, sock]) conn.close();
    `;
    const server = await startServer(runtime, { story: story + functions });
    const client = await connect(server.port);
    await server.stderr.until("too late");
    await send(client, "1");
    await server.ends(0, "1", "socket_read() 失敗的原因是:…");
  });

  readme("lineSplitter makes lines of a stream", async () => {
    const story = `
      const msgsock = await accept(sock);
      const split = lineSplitter();
      while (true) {
        for (const line of split(await read(msgsock, 8192))) await echo(line);
      }
    `;
    const server = await startServer(runtime, { story: story + functions });
    const [head = 0, ...tail] = Buffer.from("好\n\n二\r\n");
    const client = await connect(server.port, Buffer.from([head]));
    await giveTime(runtime); // to read half a character
    await send(client, Buffer.from(tail));
    await send(client, "x".repeat(99_999));
    const { stdout } = await server.ended(1);
    assert.equal(stdout, "好二");
    assert.match(await server.stderr.text(), /this line has no end/);
  });
}

// ---- The files themselves

check("what both scripts have, they have word for word", () => {
  const name = /(?<=^(async )?(function|interface|type) )\w+/gm;
  const names = read("server.ts").match(name) ?? [];
  const shared = names.filter((name) => definition("client", name));
  for (const name of shared) {
    const [ours, theirs] = scripts.map((script) => definition(script, name));
    assert.equal(ours, theirs, `${name} differs`);
  }
  assert(shared.length > 9);
});

check("the defaults are the PHP's", () => { // not tried: the port may be taken
  for (const script of scripts) {
    assert.match(read(`${script}.ts`), /ip = "127.0.0.1", port = "1935",/);
  }
});

check("the scripts import nothing", () => {
  for (const script of scripts) {
    assert.doesNotMatch(read(`${script}.ts`), /\b(import|require)\b/);
  }
});

const types = spawnSync("node", ["-p", "process.features.typescript"]);
const oldNode = !`${types.stdout}`.startsWith("strip");
check("on Node.js, both say what to run them with", async () => {
  for (const script of scripts) {
    const node = { name: "node", command: ["node"] };
    const program = startScript(node, script, []);
    const { stdout, failures } = await program.ended(2);
    assert.equal(stdout, "");
    assert.match(failures.join("\n"), /^.+bun .+deno run .+$/);
  }
}, oldNode ? "no Node.js from 22.18 on PATH" : "");

/** All that has been started: the scripts, and programs made of them. */
const sources = new Set(scripts.map((script) => read(`${script}.ts`)));

const deno = runtimes.find(({ name }) => name === "deno")?.command[0] ?? "";
check("no program that was started has a type error", () => {
  const story = `
    const buf = await read(await accept(sock), 8192);
    await crypto.subtle.digest("SHA-256", buf);
    await echo(await new Response(buf).text(), await new Blob([buf]).text());
  `;
  // Another option of Deno.listen() in the place of PHP's backlog.
  const edits = [[", tcpBacklog: 4", ", reusePort: false"]];
  sources.add(edited("server", { story, edits }));
  const folder = makeFolder();
  for (const [i, source] of [...sources].entries()) {
    fs.writeFileSync(`${folder}/${i}.ts`, source);
  }
  const { status, stderr } = spawnSync(deno, ["check", "--quiet", folder]);
  assert.equal(status, 0, `${stderr}`);
}, deno ? "" : "no Deno on PATH");

// ---- How a test starts, and how it leaves nothing behind

type Body = () => Promise<void> | void;

/** What is to be cleared away after the test that is running. */
let leftovers: (() => unknown)[] | undefined;

/** A test that leaves nothing behind, and that fails if it hangs. */
function check(title: string, body: Body, skip = ""): void {
  if (skip) return void test(`${title} (skipped: ${skip})`, { skip: true });
  test(title, { timeout: 60_000 }, async () => {
    leftovers = [];
    const late = timer(30_000, "it hangs", { ref: false });
    try {
      assert.equal(await Promise.race([body(), late]), undefined);
    } finally {
      const all = leftovers;
      leftovers = undefined;
      await Promise.all(all.map(async (clear) => await clear()));
    }
  });
}

/** Clears away when the test that is running is over. */
function leave(clear: () => unknown): void {
  assert(leftovers, "no test is running that would clear this away");
  leftovers.push(clear);
}

function makeFolder(): string {
  const folder = fs.mkdtempSync(`${tmpdir()}/socket-`);
  const remove = async (): Promise<void> => {
    try {
      fs.rmSync(folder, { recursive: true });
    } catch (error) {
      if (!windows) throw error;
      await timer(50); // Windows holds it a moment longer than its program runs
      await remove();
    }
  };
  leave(remove);
  return folder;
}

// ---- The scripts, started

type Script = typeof scripts[number];

/** The command stands before the name of a script. */
type Runtime = { name: string; command: readonly string[] };

/** Starts a script, or what stands in its place, alone in a folder. */
function startScript(
  { command: [file = "", ...words] }: Runtime,
  script: Script,
  args: string[],
  source = read(`${script}.ts`),
) {
  sources.add(source);
  const folder = makeFolder();
  fs.writeFileSync(`${folder}/${script}.ts`, source);
  const child = spawn(file, [...words, `${script}.ts`, ...args], {
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
  /** Waits for the end, checks the exit code, and returns what was printed. */
  const ended = async (code: number) => {
    const lines = (await stderr.text()).split("\n").slice(0, -1);
    assert.equal(await exit, code, lines.join("\n"));
    return { stdout: await stdout.text(), failures: lines.flatMap(failureIn) };
  };
  /** The same, and checks what was printed. */
  const ends = async (code: number, stdout: string, ...failures: string[]) =>
    assert.deepEqual(await ended(code), { stdout, failures });
  return { folder, stdout, stderr, kill, exit, ended, ends };
}

/**
 * A line on stderr, if it does not tell of success. In the place of the words
 * of the runtime or the system stands the error's code, or … if it has none.
 */
function failureIn(line: string): string[] {
  if (/^(正在|已)/.test(line)) return [];
  const [, step, why = ""] = /^(.+(?:原因是|reason):)(.+)$/.exec(line) ?? [];
  return [step ? step + (/\bE[A-Z_]+\b/.exec(why)?.[0] ?? "…") : line];
}

/** Starts a server, on a free port or on a given one, and waits for it. */
async function startServer(
  runtime: Runtime,
  options: Edits & { port?: number; clients?: number } = {},
) {
  const { port = 0, clients = 5 } = options;
  const args = ["127.0.0.1", `${port}`, ...clients === 5 ? [] : [`${clients}`]];
  const source = edited("server", options);
  const program = startScript(runtime, "server", args, source);
  await program.stderr.until("\n");
  const [line = ""] = `${program.stderr.bytes}`.split("\n");
  assert.match(line, /^正在監聽 127\.0\.0\.1:\d+$/);
  return { ...program, port: Number(line.split(":")[1]) };
}

/** Starts a client, and is the server: `socket` is the other end. */
async function startClient(
  runtime: Runtime,
  options: Edits & { message?: string } = {},
) {
  const { port, accept } = await listen();
  const args = ["127.0.0.1", `${port}`, options.message ?? "hello"];
  const source = edited("client", options);
  const accepting = accept();
  const program = startScript(runtime, "client", args, source);
  return { ...program, ...await accepting };
}

/** Gives a program time to do what it should not: a script starts three times. */
async function giveTime({ command: [file = "", ...words] }: Runtime) {
  const args = [...words, `${import.meta.dirname}/server.ts`, "-h"];
  for (let i = 0; i < 3; i++) {
    await once(spawn(file, args, { stdio: "ignore" }), "exit");
  }
}

// ---- The other end of a connection

type Data = string | Uint8Array;

/** Listens; accept() returns the next connection. */
async function listen() {
  const listener = net.createServer({ allowHalfOpen: true });
  leave(() => listener.close());
  await once(listener.listen(0, "127.0.0.1"), "listening");
  const address = listener.address();
  assert(address !== null && typeof address === "object");
  const accept = async () => {
    const [socket]: net.Socket[] = await once(listener, "connection");
    assert(socket);
    leave(() => socket.destroy());
    return { socket, received: new Inbox(socket) };
  };
  return { port: address.port, accept, close: () => listener.close() };
}

/** Connects a client of our own, which sends `data`. */
async function connect(port: number, data: Data = "") {
  const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true });
  leave(() => socket.destroy());
  const client = { socket, received: new Inbox(socket) };
  await once(socket, "connect");
  await send(client, data);
  return client;
}

/** Connects a client, and waits until its turn has come. */
async function connectInTurn(port: number) {
  const client = await connect(port);
  await client.received.until(greeting);
  return client;
}

/** Connects a client that sends `data`, and returns all that it receives. */
async function converse(port: number, data: Data): Promise<string> {
  const { received } = await connect(port, data);
  return await received.text();
}

/** Writes, and waits until the system has taken it. */
function send(to: { socket: net.Socket }, data: Data): Promise<void> {
  return new Promise((resolve) => to.socket.write(data, () => resolve()));
}

/** Sends `binary` again and again; returns how many bytes the system took. */
function flood(socket: net.Socket): () => number {
  let taken = 0;
  const more = () => {
    const block = binary.subarray(taken % binary.length).subarray(0, 2 ** 16);
    taken += block.length;
    socket.write(block, (error) => error || more());
  };
  more();
  return () => taken;
}

/** Waits until a program takes no more; Linux alone may keep 37 million bytes. */
async function assertItStops(taken: () => number, runtime: Runtime) {
  let before;
  do {
    before = taken();
    assert(before < 50_000_000, `it took ${before} bytes, and does not stop`);
    await giveTime(runtime);
  } while (taken() > before);
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

  /** Waits until all of `part` has come. */
  async until(part: string | Buffer): Promise<void> {
    let from = 0;
    while (!this.bytes.includes(part, from)) {
      assert(!this.over, `no "${part}" in "${this.bytes.subarray(-99)}"`);
      from = Math.max(0, this.bytes.length - Buffer.byteLength(part));
      await this.#change();
    }
  }

  /** Waits for the end, and returns all that has come. */
  async all(): Promise<Buffer> {
    while (!this.over) await this.#change();
    return this.bytes;
  }

  async text(): Promise<string> {
    return `${await this.all()}`;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#changed = resolve);
  }
}

// ---- The sources of the scripts, and of README.md

/** A file of the project, with "\n" also where git writes "\r\n". */
function read(name: string): string {
  return fs.readFileSync(new URL(name, import.meta.url), "utf8")
    .replaceAll("\r\n", "\n");
}

/** Another story, from where the script listens or is connected, and edits. */
type Edits = { story?: string; edits?: string[][] };

/** A script with another story, if there is one, and with edits. */
function edited(script: Script, { story, edits = [] }: Edits): string {
  const source = read(`${script}.ts`);
  const begin = script === "server" ? "let count = 0;" : "// socket_write:";
  const [old = ""] = source.slice(source.indexOf(begin)).split("\n// ---- ");
  return [[old, story ?? old], ...edits].reduce((text, [part = "", by]) => {
    const [before, after, ...others] = text.split(part);
    assert(after !== undefined && others.length === 0, `not once: ${part}`);
    return before + (by ?? "") + after;
  }, source);
}

/** A function or a type of a script, with its comment. */
function definition(script: Script, name: string): string | undefined {
  const start = new RegExp(
    `^(async )?(function|interface|type) ${name}\\b`,
    "m",
  );
  const parts = read(`${script}.ts`).split(/\n\n(?=\S)/);
  return parts.find((part) => start.test(part));
}

/** The blocks of code of one language, in README.md or in a part of it. */
function blocks(language: string, text = read("README.md")): string[] {
  return text.split("```" + language + "\n").slice(1)
    .map((rest) => rest.slice(0, rest.indexOf("```")));
}

/** The edits of one of README.md's exercises. */
function exercise(number: number): string[][] {
  const text = read("README.md").split(/^### Exercise \d/m)[number] ?? "";
  const edits = blocks("diff", text).flatMap((all) => all.split(/^@@\n/m));
  assert(edits.length > 0, `there is no exercise ${number}`);
  return edits.map((edit) =>
    ["+", "-"].map((sign) =>
      edit.split("\n").filter((line) => line[0] !== sign)
        .map((line) => line.slice(1)).join("\n")
    )
  );
}

/**
 * The runtimes to be had, each with what README.md says to start a script with;
 * one that is missing is a test that is skipped.
 */
function findRuntimes(): Runtime[] {
  const commands = [["bun"], ["deno", "run", "--allow-net"]] as const;
  return commands.flatMap(([name, ...words]) => {
    const command = [name, ...words, "server.ts"].join(" ");
    assert(read("README.md").includes(`\n${command}\n`), command);
    // What is on PATH may be a wrapper, which would not pass a signal on: the
    // runtime itself is asked where it is.
    const evaluate = name === "bun" ? "-e" : "eval";
    const file = name in process.versions ? process.execPath : name;
    const asked = spawnSync(file, [evaluate, "console.log(process.execPath)"]);
    if (asked.status !== 0) {
      check(name, () => {}, "it is not on PATH");
      return [];
    }
    return [{ name, command: [`${asked.stdout}`.trim(), ...words] }];
  });
}
