/**
 * What server.ts and client.ts promise, tried from outside as a user starts
 * them, and what README.md shows of them: `bun test` or `deno test -A`.
 *
 * The runtime that runs this file is tried and, if it is on PATH, the other one
 * too, and every pairing of the two. The tests wait for bytes, for an end or for
 * an exit; a wait gives up after 5 seconds, and says what it has waited for. To
 * show that something does not happen, a test waits as long as a script takes to
 * start three times, which is longer on a slow or busy machine. What the system
 * decides is tried only where it is known.
 *
 * To add a test, copy one below, such as "serves five in order", or, for another
 * program with the same functions, "a second read gives the rest". startServer()
 * and startClient() start a script, newClient() makes a client of the test's own;
 * each stdout, stderr and `received` is an Inbox, with until() and expectAll().
 * To run one: `bun test -t "serves five"`, `deno test -A --filter "serves five"`.
 */
import assert from "node:assert/strict";
import { Buffer, isUtf8 } from "node:buffer";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import process from "node:process";
import type { Readable } from "node:stream";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";

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
        await startScript(calling, "client", args).expectExit(0, greeting);
      }
      await server.expectExit(0, messages.map(printed).join(""));
    });
  }
}

const linux = process.platform === "linux";
const windows = process.platform === "win32";
const wine = "WINEHOMEDIR" in process.env; // Windows' programs, run on Linux

// Why a test is skipped; "" if it is not.
const skipReset = linux ? "" : "what a reset leaves to read is the system's";
const skipBacklog = linux ? "" : "how many wait is the system's";
const skipFullDevice = linux ? "" : "there is no /dev/full";
const skipSendingOn = wine ? "Wine does not send on after a close" : "";

/** 8 MiB, not valid as UTF-8, with each byte there is, no two parts alike. */
const binary = Buffer.from(
  Uint32Array.from({ length: 2 ** 21 }, (_, i) => ~i).buffer,
);

/** The sources of all programs that the tests start. The last test reads them. */
const programs: Source[] = [];
const scripts = {
  server: typeChecked(() => file("server.ts")),
  client: typeChecked(() => file("client.ts")),
};

for (const runtime of runtimes) {
  const on = `on ${runtime.name}`;
  const bun = runtime.name === "bun";
  const skipRefused = wine && bun ? "Bun under Wine does not notice" : "";

  // ---- The server

  check(`server ${on}: serves five in order, and reads once`, async () => {
    const server = await startServer(runtime);
    const first = await newClientInTurn(server.port);
    const inPieces = await newClient(server.port, "piece ");
    const halfClosed = await newClient(server.port);
    halfClosed.socket.end("3"); // has sent all, and can still receive
    const silent = await newClient(server.port);
    silent.socket.end();
    const last = await newClient(server.port, "5");
    const tooLate = await newClient(server.port, "6");
    await waitThreeStarts(runtime); // it must not read a piece yet
    await send(inPieces, "by piece");
    await send(first, "1");
    for (const { received } of [first, inPieces, halfClosed, silent, last]) {
      await received.expectAll(greeting);
    }
    await tooLate.received.expectAll("");
    const messages = ["1", "piece by piece", "3", "", "5"];
    await server.expectExit(0, messages.map(printed).join(""));
  });

  check(`server ${on}: prints 8192 bytes at most, as they came`, async () => {
    const server = await startServer(runtime, { clients: 1 });
    await newClient(server.port, binary.subarray(0, 10_000));
    const [before = "", after = ""] = printed("|").split("|");
    const parts = [Buffer.from(before), binary.subarray(0, 8192)];
    const expected = Buffer.concat([...parts, Buffer.from(after)]);
    await server.expectExit(0, expected);
  });

  check(`server ${on}: outlives a client that resets in its turn`, async () => {
    const server = await startServer(runtime, { clients: 2 });
    const gone = await newClientInTurn(server.port);
    gone.socket.resetAndDestroy();
    await converse(server.port, "2");
    const failure = "socket_read() 失敗的原因是:ECONNRESET";
    await server.expectExit(0, printed("") + printed("2"), failure);
  });

  for (const said of ["2", ""]) {
    const title = `outlives one who waits, says "${said}", resets`;
    check(`server ${on}: ${title}`, async () => {
      // Bun has accepted who waits, so that who is gone has a turn all the same.
      const turns = bun ? ["1", said, "3"] : ["1", "3"];
      const failure = bun
        ? "socket_write() 失敗的原因是:ECONNRESET"
        : "socket_accept() failed: reason:ENOTCONN";
      const server = await startServer(runtime, { clients: turns.length });
      const first = await newClientInTurn(server.port);
      const gone = await newClient(server.port, said);
      const last = await newClient(server.port, "3");
      gone.socket.resetAndDestroy();
      await waitThreeStarts(runtime); // to hear of the reset
      await send(first, "1");
      await last.received.expectAll(greeting);
      await server.expectExit(0, turns.map(printed).join(""), failure);
    }, skipReset);
  }

  const goneCodes = ["ENOTCONN", "EINVAL", "ECONNABORTED", "ECONNRESET"];
  const acceptOrFail = `
    const codes = ${JSON.stringify([...goneCodes, "", "EMFILE"])};
    async function acceptOrFail() {
      const code = codes.shift();
      if (code) throw Object.assign(Error("as told"), { code });
      return await sock.accept();
    }
    let count = 0;
  `;
  const failingAccept = edited(
    "server",
    ["sock.accept()", "acceptOrFail()"],
    ["let count = 0;", acceptOrFail],
  );
  check(`server ${on}: passes over only who is gone`, async () => {
    const server = await startServer(runtime, { source: failingAccept });
    await converse(server.port, "1");
    const failures = [...goneCodes, "EMFILE"]
      .map((code) => `socket_accept() failed: reason:${code}`);
    await server.expectExit(1, printed("1"), ...failures);
  });

  if (!bun) { // Bun.listen() has no backlog
    check(`server ${on}: lets as many wait as PHP does`, async () => {
      const { port } = await startServer(runtime);
      await newClientInTurn(port);
      let connected = 0;
      for (let i = 0; i < 12; i++) {
        newClient(port).then(() => connected++, () => {}); // the end refuses some
      }
      await waitThreeStarts(runtime); // it must let no sixth wait
      assert.equal(connected, 5); // Linux adds one to the backlog of 4
    }, skipBacklog);
  }

  check(`server ${on}: greets first, and ends if stdout is full`, async () => {
    const toFull = ["sh", "-c", 'exec "$0" "$@" >/dev/full'];
    const command = [...toFull, ...runtime.command];
    const server = await startServer({ ...runtime, command });
    await converse(server.port, "1");
    await server.expectExit(1, "", "echo 失敗的原因是:ENOSPC");
  }, skipFullDevice);

  check(`server ${on}: says that its port is taken`, async () => {
    const { port } = await startServer(runtime);
    const second = startScript(runtime, "server", ["127.0.0.1", `${port}`]);
    await second.expectExit(1, "", "socket_bind() 失敗的原因是:EADDRINUSE");
  });

  // ---- The client

  check(`client ${on}: sends, and prints each part as it comes`, async () => {
    const client = await startClient(runtime, { message: "說\n" });
    await client.received.until("說\n");
    for (let i = 0; i < 3; i++) { // one byte alone is no end yet
      await send(client, binary.subarray(i, i + 1));
      await client.stdout.until(binary.subarray(0, i + 1));
    }
    assert(!client.received.over, "it closed its sending side");
    client.socket.end(binary.subarray(3, 10_000));
    await client.expectExit(0, binary.subarray(0, 10_000));
    await client.received.expectAll("說\n");
  });

  check(`client ${on}: sends nothing, reads all`, async () => {
    const client = await startClient(runtime, { message: "" });
    await client.received.expectAll("");
    client.socket.end("one");
    await client.expectExit(0, "one");
  });

  const failing = 'Promise.reject(Error("as told"))';
  const failingShutdown = edited("client", ["sock.closeWrite()", failing]);
  check(`client ${on}: says that it could not end its side`, async () => {
    const options = { message: "", source: failingShutdown };
    const client = await startClient(runtime, options);
    await client.expectExit(1, "", "socket_shutdown() 失敗的原因是:…");
  });

  // More than a socket takes at once; an argument cannot be as long.
  const long = 'sock, "x".repeat(8_000_000)';
  const longMessage = edited("client", ["sock, message", long]);
  check(`client ${on}: sends all, if the server has said all`, async () => {
    const client = await startClient(runtime, { source: longMessage });
    client.socket.end("one");
    client.received.stream.pause();
    await waitThreeStarts(runtime); // it must not give up
    client.received.stream.resume();
    await client.received.expectAll("x".repeat(8_000_000));
    await client.expectExit(0, "one");
    await client.stderr.until("\n已傳送 8000000 個位元組\n");
  }, skipSendingOn);

  check(`client ${on}: prints all, if it cannot send`, async () => {
    const client = await startClient(runtime, { source: longMessage });
    client.received.stream.pause();
    await send(client, "one");
    await waitThreeStarts(runtime); // to fill the connection
    client.socket.resetAndDestroy();
    const code = bun ? "…" : "ECONNRESET"; // Bun has not heard why
    await client.expectExit(1, "one", `socket_write() 失敗的原因是:${code}`);
  }, skipReset);

  check(`client ${on}: makes a server wait; no gap at a reset`, async () => {
    const client = await startClient(runtime);
    client.stdout.stream.pause();
    await assertItStops(flood(client.socket), runtime);
    client.socket.resetAndDestroy();
    client.stdout.stream.resume();
    const all = await client.stdout.all();
    assert(all.length > 2 ** 16, `only ${all.length} bytes`);
    for (let at = 0; at < all.length; at += binary.length) {
      const part = all.subarray(at, at + binary.length);
      assertSame(part, binary.subarray(0, part.length));
    }
    await client.expectExit(1, all, "socket_read() 失敗的原因是:ECONNRESET");
  }, skipReset);

  if (!bun) { // Bun writes all bytes to any console
    const there = 'build.os === "windows" && stdout.isTerminal()';
    const onConsole = edited("client", [there, "true"]);
    check(`client ${on}: on a Windows console, shows �`, async () => {
      const client = await startClient(runtime, { source: onConsole });
      const [head = 0, ...tail] = Buffer.from("好");
      await send(client, Buffer.from([0x31, 0xff, head]));
      await client.stdout.until("1\ufffd");
      client.socket.end(Buffer.from([...tail, head]));
      await client.expectExit(0, "1\ufffd好\ufffd");
    });
  }

  check(`client ${on}: says that nobody listens`, async () => {
    const { port, kill } = await startServer(runtime);
    await kill("SIGKILL");
    const client = startScript(runtime, "client", ["127.0.0.1", `${port}`]);
    await client.expectExit(
      1,
      "",
      "socket_connect() 失敗的原因是:ECONNREFUSED",
    );
  }, skipRefused);

  // ---- Both

  check(`both ${on}: say which step fails if a name is wrong`, async () => {
    const code = bun ? "ENOTFOUND" : "…";
    const server = startScript(runtime, "server", ["no..such", "65535"]);
    await server.expectExit(1, "", `socket_bind() 失敗的原因是:${code}`);
    for (const port of ["1", "65535"]) {
      const client = startScript(runtime, "client", ["no..such", port]);
      await client.expectExit(1, "", `socket_connect() 失敗的原因是:${code}`);
    }
  });

  check(`both ${on}: lose nothing if stdout is slow`, async () => {
    const client = await startClient(runtime);
    client.stdout.stream.pause();
    client.socket.end(binary);
    const server = await startServer(runtime, { clients: 40 });
    server.stdout.stream.pause();
    const messages = Array.from({ length: 40 }, (_, i) => `${i}|`.repeat(2000));
    const conversations = (async () => {
      for (const message of messages) await converse(server.port, message);
    })();
    await waitThreeStarts(runtime); // to fill the pipes
    for (const { stdout } of [client, server]) stdout.stream.resume();
    await conversations;
    await server.expectExit(0, messages.map(printed).join(""));
    await client.expectExit(0, binary);
  });

  check(`both ${on}: end if stdout is closed`, async () => {
    const client = await startClient(runtime);
    client.stdout.stream.destroy();
    flood(client.socket);
    const server = await startServer(runtime, { clients: 99 });
    server.stdout.stream.destroy();
    let served = true;
    for (let i = 0; i < 99 && served; i++) {
      served = await converse(server.port, "1").then(() => true, () => false);
    }
    for (const program of [client, server]) {
      const { code, failures } = await program.outcome();
      // A pipe, one of a pair of sockets, or Deno's pipe on Windows.
      assert.match(failures.join(), /^echo 失敗的原因是:(EPIPE|ECONNRESET|…)$/);
      assert.equal(code, 1);
    }
  });

  for (const signal of ["SIGINT", "SIGTERM"]) {
    check(`both ${on}: end at ${signal}; the server starts again`, async () => {
      const client = await startClient(runtime, { message: "here" });
      await client.received.until("here");
      const server = await startServer(runtime, { clients: Infinity });
      for (let i = 0; i < 6; i++) await converse(server.port, "1");
      await newClientInTurn(server.port);
      for (const { kill } of [client, server]) {
        assert.equal(await kill(signal), windows ? 1 : signal);
      }
      await startServer(runtime, { port: server.port });
    });
  }

  for (const script of ["server", "client"] as const) {
    check(`${script} ${on}: says how to use it`, async () => {
      const [argument, defaults, ports] = script === "server"
        ? ["clients", "5", "0 到 65535；clients 是正整數或 Infinity。"]
        : ["message", "你好,伺服器!（加換行）", "1 到 65535。"];
      const usage = `用法：bun ${script}.ts [ip] [port] [${argument}]` +
        `（或 deno run --allow-net ${script}.ts …）。` +
        `要先寫 ip；預設依序為 127.0.0.1、1935、${defaults}。port 是 ${ports}`;
      for (const flag of ["-h", "--help"]) {
        await startScript(runtime, script, [flag]).expectExit(0, `${usage}\n`);
      }
      const ips = ["", "80", "-p", "--version", "a:80", "1.2.3.4:80", "a/b"];
      const numbers = ["-1", "65536", "1e3", "0x50", "8.0", "http", "-h", ""];
      const wrong = script === "server"
        ? ["0", "-1", "1.5", "1e1", "all", ""].map((count) => `0 ${count}`)
        : ["0"];
      const rest = [...numbers, ...wrong, "80 5 6"].map((rest) => `a ${rest}`);
      await Promise.all([...ips, ...rest].map(async (args) => {
        const program = startScript(runtime, script, args.split(" "));
        await program.expectExit(2, "", usage);
      }));
      const right = startScript(runtime, script, ["::1", "1"]);
      await right.stderr.until("\n");
      assert(!`${right.stderr.bytes}`.includes(usage), "::1 is an address");
    });
  }

  // ---- The scripts' functions, in other programs that a reader may write

  const secondRead = retold("server", () => `
    const msgsock = await accept(sock);
    await echo(await read(msgsock, 4));
    let buf;
    while ((buf = await read(msgsock, 9999)).length > 0) await echo(buf);
    const other = await accept(sock);
    await write(msgsock, "late");
    for (const conn of [msgsock, other, sock]) conn.close();
  `);
  check(`functions ${on}: a second read gives the rest`, async () => {
    const server = await startServer(runtime, { source: secondRead });
    const client = await newClient(server.port, binary.subarray(0, 4));
    await server.stdout.until(binary.subarray(0, 4));
    client.socket.end(binary.subarray(4));
    await server.stdout.until(binary.subarray(-8));
    await newClient(server.port);
    await server.expectExit(0, binary);
    await client.received.expectAll("late");
  });

  const resetAfterEnd = retold("server", () => `
    const msgsock = await accept(sock);
    await echo(await read(msgsock, 1));
    const other = await accept(sock);
    await echo(await read(msgsock, 9), await read(msgsock, 9));
    for (const conn of [msgsock, other, sock]) conn.close();
  `);
  check(`functions ${on}: a reset after the end changes nothing`, async () => {
    const server = await startServer(runtime, { source: resetAfterEnd });
    const { socket } = await newClient(server.port, "123");
    await server.stdout.until("1");
    socket.end();
    await waitThreeStarts(runtime); // to hear of the end
    socket.resetAndDestroy();
    await waitThreeStarts(runtime); // to hear of the reset
    await newClient(server.port);
    await server.expectExit(0, "123");
  }, skipReset);

  const lateReads = retold("server", () => `
    const msgsock = await accept(sock);
    const other = await accept(sock);
    await echo(await read(msgsock, 3));
    await read(other, 1);
    await echo(await read(msgsock, 5));
    for (const conn of [msgsock, other, sock]) conn.close();
  `);
  check(`functions ${on}: who sends without end waits for a read`, async () => {
    const server = await startServer(runtime, { source: lateReads });
    const first = await newClient(server.port);
    const other = await newClient(server.port);
    const waiting = await newClient(server.port);
    for (const { socket } of [first, waiting]) {
      await assertItStops(flood(socket), runtime);
    }
    await send(other, "1");
    await server.expectExit(0, binary.subarray(0, 8));
  });

  const bothWays = retold("server", () => `
    const msgsock = await accept(sock);
    const reading = read(msgsock, 8192);
    await write(msgsock, "x".repeat(8_000_000) + "done");
    await echo(await reading);
    for (const conn of [msgsock, sock]) conn.close();
  `);
  check(`functions ${on}: a write goes on while a read waits`, async () => {
    const server = await startServer(runtime, { source: bothWays });
    const client = await newClient(server.port);
    client.received.stream.pause();
    await waitThreeStarts(runtime); // to fill the connection
    client.received.stream.resume();
    await client.received.until("done");
    await send(client, "1");
    await server.expectExit(0, "1");
  });

  const twoEchoes = retold("server", () => `
    await Promise.all([echo("1", "2", "3"), echo("4", "5", "6")]);
    sock.close();
  `);
  check(`functions ${on}: the parts of one echo stay together`, async () => {
    const server = await startServer(runtime, { source: twoEchoes });
    await server.expectExit(0, "123456");
  });

  const acceptAfterClose = retold("server", () => `
    const waiting = accept(sock).catch(warn("socket_accept() failed: reason: "));
    sock.close();
    await waiting;
    await accept(sock).catch(die("socket_accept() failed: reason: "));
  `);
  check(`functions ${on}: accept rejects if its listener closes`, async () => {
    const server = await startServer(runtime, { source: acceptAfterClose });
    const failure = "socket_accept() failed: reason:…";
    await server.expectExit(1, "", failure, failure);
  });

  const allInOne = retold("client", () => `
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
  `);
  check(`functions ${on}: listen, accept and connect in one file`, async () => {
    const options = { message: "", source: allInOne };
    const client = await startClient(runtime, options);
    client.socket.end("all");
    await client.expectExit(0, "ok, ECONNREFUSED");
    await client.received.expectAll("late");
  }, skipRefused);

  // ---- README.md, with whose commands all of the above was started

  check(`README ${on}: what you see`, async () => {
    const [english = "", chinese = ""] = blocks("console");
    assertSame(chinese, english);
    const server = await startServer(runtime, { clients: 1 });
    const args = ["127.0.0.1", `${server.port}`];
    const client = startScript(runtime, "client", args);
    await client.expectExit(0, greeting);
    await server.outcome();
    const served = `${server.stderr.bytes}${server.stdout.bytes}`;
    // On a terminal, the greeting stands before what tells how long it was.
    const called = `${client.stderr.bytes}`;
    const seen = [served, called.replace("已收到", `${greeting}已收到`)]
      .map((text) => text.replace(`${server.port}`, "1935"));
    const [, ...shown] = english.split(/^\$ .+\n/m);
    assert.deepEqual(seen, shown);
  });

  const talkback = exercise("server", 1);
  check(`README ${on}: exercise 1, the client gets the talkback`, async () => {
    const { port } = await startServer(runtime, { source: talkback });
    const client = await newClient(port, "1");
    await client.received.expectAll(`${greeting}收到的資訊:1\n`);
  });

  const echoServer = exercise("server", 2);
  const echoClient = exercise("client", 4);
  check(`README ${on}: exercises 2 and 4, an echo server`, async () => {
    const { port } = await startServer(runtime, { source: echoServer });
    const { socket, received } = await newClientInTurn(port);
    const sent = binary.subarray(0, 100_000); // read in many parts
    socket.end(sent);
    await received.expectAll(Buffer.concat([Buffer.from(greeting), sent]));
    const args = ["127.0.0.1", `${port}`, "-h"]; // a message like any other
    const client = startScript(runtime, "client", args, echoClient);
    await client.expectExit(0, `${greeting}-h`);
  });

  const manyAtOnce = exercise("server", 3);
  check(`README ${on}: exercise 3, several clients at once`, async () => {
    const options = { clients: 2, source: manyAtOnce };
    const server = await startServer(runtime, options);
    const first = await newClientInTurn(server.port);
    await converse(server.port, "2");
    await send(first, "1");
    await server.expectExit(0, `測試成功了啊\n${printed("2")}收到的資訊:1\n`);
  });

  const chatRoom = retold("server", () => blocks("ts").join(""));
  check(`README ${on}: exercise 5, a chat room`, async () => {
    const { port, stderr } = await startServer(runtime, { source: chatRoom });
    /** Joins, and says so to somebody who is in. */
    const join = async (name: string, somebody?: Client) => {
      const client = await newClient(port, `${name}\n`);
      await somebody?.received.until(`${name}\n`);
      return client;
    };
    const one = await join("one");
    const two = await join("two", one);
    const gone = await join("gone", one);
    gone.socket.resetAndDestroy();
    const deaf = await join("deaf", one);
    deaf.received.stream.pause();

    const [head = 0, ...tail] = Buffer.from("好\n\n二\r\n");
    await send(one, Buffer.from([head]));
    await waitThreeStarts(runtime); // to read half a character
    await send(one, Buffer.from(tail));
    await two.received.until("gone\ndeaf\n好\n\n二\n");

    // More than a connection holds: the deaf one is out after a second.
    const lines = `${"x".repeat(8000)}\n`.repeat(1000) + "that was all\n";
    one.socket.write(lines);
    await two.received.until("that was all\n");
    assertSame(two.received.bytes.subarray(-lines.length), lines);
    deaf.received.stream.resume();
    const heard = await deaf.received.all();
    assert(heard.length < lines.length, "the deaf one was not put out");

    await send(one, "x".repeat(99_999));
    await one.received.expectAll("two\ngone\ndeaf\n");
    await stderr.until("talk() 失敗的原因是:this line has no end");
  });

  const lastWords = retold("server", () => `
    const msgsock = await accept(sock);
    const reading = read(msgsock, 8192);
    await within(1, reading).catch(warn("socket_read() 失敗的原因是:"));
    await echo(await within(20_000, reading));
    await write(msgsock, "last words");
    await closeGently(msgsock);
    sock.close();
    ${blocks("ts")[1]}
  `);
  check(`README ${on}: within rejects; closeGently loses nothing`, async () => {
    const server = await startServer(runtime, { source: lastWords });
    const client = await newClient(server.port);
    await server.stderr.until("too late");
    await send(client, "1");
    await server.stdout.until("1");
    let reset = false;
    client.socket.on("error", () => reset = true);
    client.socket.end(binary.subarray(0, 100_000)); // nobody has read this yet
    await client.received.expectAll("last words");
    assert(!reset, "the connection was reset");
    await server.expectExit(0, "1", "socket_read() 失敗的原因是:…");
  });
}

// ---- The files themselves

check("what both scripts have, they have word for word", () => {
  const name = /(?<=^(async )?(function|interface|type) )\w+/gm;
  const names = file("server.ts").match(name) ?? [];
  const shared = names.filter((name) => definition("client", name));
  for (const name of shared) {
    const ours = definition("server", name);
    assert.equal(ours, definition("client", name), `${name} differs`);
  }
  assert(shared.length > 9);
});

check("the defaults are the PHP's", () => { // not tried: the port may be taken
  for (const script of ["server.ts", "client.ts"]) {
    assert.match(file(script), /ip = "127.0.0.1", port = "1935",/);
  }
});

const asked = spawnSync("node", ["-p", "process.features.typescript"]);
const noNode = `${asked.stdout}`.startsWith("strip") ? "" : "no Node.js 22.18";
check("on Node.js, both say what to run them with", async () => {
  const node = { name: "node", command: ["node"] };
  for (const script of ["server", "client"] as const) {
    const program = startScript(node, script, []);
    const { code, stdout, failures } = await program.outcome();
    assert.equal(code, 2);
    assert.equal(`${stdout}`, "");
    assert.match(failures.join("\n"), /^.+bun .+deno run .+$/);
  }
}, noNode);

// Never run: the last test only checks their types. What read() gives, and
// another option of Deno.listen() in the place of PHP's backlog.
retold("server", () => `
  const buf = await read(await accept(sock), 8192);
  await crypto.subtle.digest("SHA-256", buf);
  await echo(await new Response(buf).text(), await new Blob([buf]).text());
`);
edited("server", [", tcpBacklog: 4", ", reusePort: false"]);

const deno = runtimes.find(({ name }) => name === "deno")?.command[0] ?? "";
check("no program that is started here has a type error", () => {
  const folder = newFolder();
  const sources = new Set(programs.map((source) => source()));
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

/** A test that leaves nothing behind. */
function check(title: string, body: Body, skip = ""): void {
  if (skip) return void test(`${title} (skipped: ${skip})`, { skip: true });
  test(title, { timeout: 60_000 }, async () => {
    leftovers = [];
    try {
      await body();
    } finally {
      const all = leftovers;
      leftovers = undefined;
      await Promise.all(all.map(async (clear) => await clear()));
    }
  });
}

/** Clears away when the test that is running is over. */
function afterwards(clear: () => unknown): void {
  assert(leftovers, "no test is running that would clear this away");
  leftovers.push(clear);
}

function newFolder(): string {
  const folder = fs.mkdtempSync(`${tmpdir()}/socket-`);
  const remove = async (): Promise<void> => {
    try {
      fs.rmSync(folder, { recursive: true });
    } catch (error) {
      if (!windows) throw error;
      await sleep(50); // Windows holds it a moment longer than its program runs
      await remove();
    }
  };
  afterwards(remove);
  return folder;
}

// ---- How a test waits and compares; the errors say what it wanted and what came

type Data = string | Uint8Array;

/** Waits for a promise, 5 seconds at most: then it says what it waited for. */
async function inTime<T>(promise: Promise<T>, what: () => string): Promise<T> {
  const { promise: late, resolve } = Promise.withResolvers<true>();
  const alarm = setTimeout(resolve, 5000, true);
  try {
    const isLate = await Promise.race([promise.then(() => false), late]);
    // Thrown here and not by the alarm, so that the stack has the test's line.
    if (isLate) throw Error(`waited 5 seconds for ${what()}`);
    return await promise;
  } finally {
    clearTimeout(alarm);
  }
}

/** Compares; the error tells what there is where they begin to differ. */
function assertSame(actual: Data, expected: Data): void {
  const [came, wanted] = [Buffer.from(actual), Buffer.from(expected)];
  if (came.equals(wanted)) return;
  const first = came.findIndex((byte, i) => byte !== wanted[i]);
  const at = first < 0 ? came.length : first;
  const [here, there] = [excerpt(came, at), excerpt(wanted, at)];
  throw Error(`${here} instead of ${there}; they differ from byte ${at} on`);
}

/** Up to 200 bytes near `at`, as text or as hex, and how many there are in all. */
function excerpt(data: Data, at = 0): string {
  const bytes = Buffer.from(data);
  const part = bytes.subarray(Math.max(0, at - 50)).subarray(0, 200);
  const shown = isUtf8(bytes)
    ? JSON.stringify(`${part}`)
    : part.toString("hex");
  return `${shown} (of ${bytes.length} bytes)`;
}

/** Keeps what a stream brings. */
class Inbox {
  bytes: Buffer = Buffer.alloc(0);
  over = false;
  #changed = () => {};

  constructor(readonly stream: Readable, readonly from: string) {
    for (const event of ["data", "end", "error", "close"]) {
      stream.on(event, (data) => {
        if (event === "data") this.bytes = Buffer.concat([this.bytes, data]);
        else this.over = true;
        this.#changed();
      });
    }
  }

  /** Waits until all of `part` has come. */
  async until(part: Data): Promise<void> {
    const wanted = Buffer.from(part);
    let from = 0;
    while (!this.bytes.includes(wanted, from)) {
      if (this.over) throw Error(`no ${excerpt(wanted)}${this.#butGot()}`);
      from = Math.max(0, this.bytes.length - wanted.length);
      await this.#change(() => excerpt(wanted));
    }
  }

  /** Waits for the end, and returns all that has come. */
  async all(): Promise<Buffer> {
    while (!this.over) await this.#change(() => "the end");
    return this.bytes;
  }

  /** Waits for the end, and compares all that has come. */
  async expectAll(all: Data): Promise<void> {
    assertSame(await this.all(), all);
  }

  #change(awaited: () => string): Promise<void> {
    const change = new Promise<void>((resolve) => this.#changed = resolve);
    return inTime(change, () => awaited() + this.#butGot());
  }

  #butGot(): string {
    return ` from ${this.from}, but got ${excerpt(this.bytes)}`;
  }
}

// ---- The scripts, started

type Script = "server" | "client";

/** The command stands before the name of a script. */
type Runtime = { name: string; command: readonly string[] };

/** Starts a script, or a program in its place, alone in a folder. */
function startScript(
  { command: [command = "", ...words] }: Runtime,
  script: Script,
  args: string[],
  source = scripts[script],
) {
  const folder = newFolder();
  fs.writeFileSync(`${folder}/${script}.ts`, source());
  const child = spawn(command, [...words, `${script}.ts`, ...args], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    // As on a terminal, where what is printed must be the same.
    env: { ...process.env, FORCE_COLOR: "1", NO_COLOR: undefined },
  });
  const { pid } = child;
  assert(pid);
  const stdout = new Inbox(child.stdout, `${script}.ts on stdout`);
  const stderr = new Inbox(child.stderr, `${script}.ts on stderr`);
  const exited = once(child, "exit");
  /** Waits for the exit; returns the code, or the name of the signal. */
  const exit = async () => {
    const [code, signal] = await inTime(exited, () => `${script}.ts to exit`);
    return code ?? signal;
  };
  // Not child.kill(), which on Deno does nothing the second time.
  const kill = async (signal: string) => {
    const running = child.exitCode === null && child.signalCode === null;
    if (running) process.kill(pid, signal);
    return await exit();
  };
  afterwards(() => kill("SIGKILL"));
  /** Waits for the end, and returns the exit code and what was printed. */
  const outcome = async () => {
    const printed = await stdout.all();
    const lines = `${await stderr.all()}`.split("\n").slice(0, -1);
    const failures = lines.flatMap(failureIn);
    return { code: await exit(), stdout: printed, failures };
  };
  /** The same, and compares it; no other failures may be on stderr. */
  const expectExit = async (code: number, all: Data, ...failures: string[]) => {
    const ended = await outcome();
    const came = [`exit code ${ended.code}`, ...ended.failures];
    const wanted = [`exit code ${code}`, ...failures];
    assertSame(came.join("\n"), wanted.join("\n"));
    assertSame(ended.stdout, all);
  };
  return { stdout, stderr, kill, outcome, expectExit };
}

/**
 * A line on stderr, if it does not tell of success. In the place of the words
 * of the runtime or the system stands the error's code, or … if it has none.
 */
function failureIn(line: string): string[] {
  if (/^(正在|已)/.test(line)) return [];
  const [, step, why = ""] = /^(.+(?:原因是|reason):)(.+)$/.exec(line) ?? [];
  const code = /\bE[A-Z_]+\b/.exec(why)?.[0] ?? "…";
  if (!step) return [stripVTControlCharacters(line)];
  const repeats = why.endsWith(` (${code})`) && why.split(code).length > 2;
  return [step + code + (repeats ? ", which it repeats" : "")];
}

/** Starts a server, on a free port or on a given one, and waits for it. */
async function startServer(
  runtime: Runtime,
  options: { port?: number; clients?: number; source?: Source } = {},
) {
  const { port = 0, clients = 5, source } = options;
  const args = ["127.0.0.1", `${port}`, ...clients === 5 ? [] : [`${clients}`]];
  const program = startScript(runtime, "server", args, source);
  await program.stderr.until("\n");
  const [line = ""] = `${program.stderr.bytes}`.split("\n");
  assert.match(line, /^正在監聽 127\.0\.0\.1:\d+$/);
  return { ...program, port: Number(line.split(":")[1]) };
}

/** Starts a client, and is the server: `socket` is the other end. */
async function startClient(
  runtime: Runtime,
  { message = "hello", source }: { message?: string; source?: Source } = {},
) {
  const listener = net.createServer({ allowHalfOpen: true });
  afterwards(() => listener.close());
  await once(listener.listen(0, "127.0.0.1"), "listening");
  const address = listener.address();
  assert(address !== null && typeof address === "object");
  const connection = once(listener, "connection");
  const args = ["127.0.0.1", `${address.port}`, message];
  const program = startScript(runtime, "client", args, source);
  const what = () => `a client; on stderr: ${excerpt(program.stderr.bytes)}`;
  const [socket]: net.Socket[] = await inTime(connection, what);
  assert(socket);
  afterwards(() => socket.destroy());
  return { ...program, socket, received: new Inbox(socket, "client.ts") };
}

/** Gives a program time to do what it should not: a script starts three times. */
async function waitThreeStarts({ command: [command = "", ...words] }: Runtime) {
  const args = [...words, `${import.meta.dirname}/server.ts`, "-h"];
  for (let i = 0; i < 3; i++) {
    const exited = once(spawn(command, args, { stdio: "ignore" }), "exit");
    await inTime(exited, () => "server.ts -h to end");
  }
}

// ---- The other end of a connection

type Client = Awaited<ReturnType<typeof newClient>>;

/** Connects a client of our own, which sends `data`. */
async function newClient(port: number, data: Data = "") {
  const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true });
  afterwards(() => socket.destroy());
  const client = { socket, received: new Inbox(socket, "server.ts") };
  await inTime(once(socket, "connect"), () => "a connection");
  await send(client, data);
  return client;
}

/** Connects a client, and waits until its turn has come. */
async function newClientInTurn(port: number): Promise<Client> {
  const client = await newClient(port);
  await client.received.until(greeting);
  return client;
}

/** Connects a client that sends `data` and gets the greeting. */
async function converse(port: number, data: Data): Promise<void> {
  const { received } = await newClient(port, data);
  await received.expectAll(greeting);
}

/** Writes, and waits until the system has taken it. */
function send({ socket }: { socket: net.Socket }, data: Data): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.write(data, () => resolve());
  return inTime(promise, () => `the other end to take ${excerpt(data)}`);
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
    await waitThreeStarts(runtime);
  } while (taken() > before);
}

// ---- The scripts, README.md, and programs made of them

type Source = () => string;

/** A file of the project, with "\n" also where git writes "\r\n". */
function file(name: string): string {
  return fs.readFileSync(new URL(name, import.meta.url), "utf8")
    .replaceAll("\r\n", "\n");
}

/** Notes the source of a program, so that the last test checks its types. */
function typeChecked(source: Source): Source {
  programs.push(source);
  return source;
}

/** A script whose story is replaced, after it listens or is connected. */
function retold(script: Script, story: () => string): Source {
  const begin = script === "server" ? "let count = 0;" : "// socket_write:";
  return typeChecked(() => {
    const source = file(`${script}.ts`);
    const [old = ""] = source.slice(source.indexOf(begin)).split("\n// ---- ");
    return replaceParts(script, [[old, story()]], "server.test.ts");
  });
}

/** A script in which some parts are replaced. */
function edited(script: Script, ...edits: Edit[]): Source {
  return typeChecked(() => replaceParts(script, edits, "server.test.ts"));
}

/** A script with one of README.md's exercises done. */
function exercise(script: Script, number: number): Source {
  return typeChecked(() => {
    const text = file("README.md").split(/^### Exercise \d/m)[number] ?? "";
    const diffs = blocks("diff", text).flatMap((all) => all.split(/^@@\n/m));
    const edits = diffs.map((diff): Edit => {
      const lines = diff.split("\n");
      const without = (sign: string) =>
        lines.filter((line) => line[0] !== sign).map((line) => line.slice(1));
      return [without("+").join("\n"), without("-").join("\n")];
    });
    assert(edits.length > 0, `README.md has no exercise ${number}`);
    return replaceParts(script, edits, `README.md, exercise ${number}`);
  });
}

/** A part of a script, which must be there once, and what takes its place. */
type Edit = [part: string, by: string];

function replaceParts(script: Script, edits: Edit[], origin: string): string {
  return edits.reduce((source, [part, by]) => {
    const [before, after, ...others] = source.split(part);
    if (after === undefined || others.length > 0) {
      throw Error(`${origin}: ${script}.ts has not once: ${excerpt(part)}`);
    }
    return before + by + after;
  }, file(`${script}.ts`));
}

/** A function or a type of a script, with its comment. */
function definition(script: Script, name: string): string | undefined {
  const start = RegExp(`^(async )?(function|interface|type) ${name}\\b`, "m");
  const parts = file(`${script}.ts`).split(/\n\n(?=\S)/);
  return parts.find((part) => start.test(part));
}

/** The blocks of code of one language, in README.md or in a part of it. */
function blocks(language: string, text = file("README.md")): string[] {
  return text.split("```" + language + "\n").slice(1)
    .map((rest) => rest.slice(0, rest.indexOf("```")));
}

/**
 * The runtimes to be had, each with what README.md says to start a script with;
 * one that is missing is a test that is skipped.
 */
function findRuntimes(): Runtime[] {
  const commands = [["bun"], ["deno", "run", "--allow-net"]] as const;
  return commands.flatMap(([name, ...words]) => {
    const command = [name, ...words, "server.ts"].join(" ");
    assert(file("README.md").includes(`\n${command}\n`), command);
    // What is on PATH may be a wrapper, which would not pass a signal on: the
    // runtime itself is asked where it is.
    const evaluate = name === "bun" ? "-e" : "eval";
    const itself = name in process.versions ? process.execPath : name;
    const asked = spawnSync(itself, [
      evaluate,
      "console.log(process.execPath)",
    ]);
    if (asked.status !== 0) {
      check(name, () => {}, "it is not on PATH");
      return [];
    }
    return [{ name, command: [`${asked.stdout}`.trim(), ...words] }];
  });
}
