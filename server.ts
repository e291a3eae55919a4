/**
 * The server of the classic PHP socket example, on the native TCP of Bun and of
 * Deno: it greets each client, reads from it once, prints what came, closes,
 * and stops after five clients.
 *
 *     bun server.ts [ip] [port] [clients]
 *     deno run --allow-net server.ts [ip] [port] [clients]
 */
export {}; // makes this a module, in which await may stand at the top

// The functions below need these two.
const runtime = findRuntime();
const encoder = new TextEncoder();

const usage = "用法:server.ts [ip] [port] [clients],預設:127.0.0.1 1935 5 " +
  "(port:0 到 65535,clients:正整數或 Infinity)";
const args = runtime.Deno ? runtime.Deno.args : runtime.Bun.argv.slice(2);
const [ip = "127.0.0.1", port = "1935", clients = "5", ...others] = args;
if (ip === "-h" || ip === "--help") {
  console.log(usage);
  process.exit(0);
}
if (
  // An ip of only digits: somebody gave just the port.
  /^\d*$/.test(ip) || !/^\d+$/.test(port) || Number(port) > 65535 ||
  !/^([1-9]\d*|Infinity)$/.test(clients) || others.length > 0
) {
  console.warn(usage);
  process.exit(2);
}

// socket_create, socket_bind, socket_listen
const sock = await listen(ip, Number(port))
  .catch(die("socket_bind() 失敗的原因是:"));
console.warn(`正在監聽 ${ip}:${sock.addr.port}`);

let count = 0;
do {
  // socket_accept
  const msgsock = await accept(sock)
    .catch(die("socket_accept() failed: reason: "));

  // socket_write: where the client is gone, the server only warns and goes on
  await write(msgsock, "測試成功!\n")
    .catch(warn("socket_write() 失敗的原因是:"));

  await echo("測試成功了啊\n").catch(die("echo 失敗的原因是:"));

  // socket_read
  const buf = await read(msgsock, 8192)
    .catch(warn("socket_read() 失敗的原因是:"));

  const talkback = ["收到的資訊:", buf ?? "", "\n"];
  await echo(...talkback).catch(die("echo 失敗的原因是:"));

  // socket_close
  msgsock.close();
} while (++count < Number(clients));

// socket_close
sock.close();

/** Takes the next client, in the order of connecting; rejects once closed. */
async function accept(sock: Listener): Promise<Conn> {
  while (true) {
    const conn = await sock.accept().catch((error: SystemError) => {
      // Deno fails where the client is already gone: take the next one.
      if (error.code !== "ENOTCONN") throw error;
      warn("socket_accept() failed: reason: ")(error);
    });
    if (conn) return conn;
  }
}

/**
 * Sends all of `data`, text as UTF-8, and gives its length in bytes. Rejects
 * where the connection is gone. Await it before the next write to this `conn`.
 */
async function write(conn: Conn, data: string | Uint8Array): Promise<number> {
  const bytes = typeof data === "string" ? encoder.encode(data) : data;
  let sent = 0;
  while (sent < bytes.length) {
    const count = await conn.write(bytes.subarray(sent)); // often just a part
    if ("data" in conn && count === 0) await conn.data.wait(); // Bun does not
    if ("data" in conn && count < 0) {
      throw conn.data.end?.shift() ?? Error("the connection is closed");
    }
    sent += count;
  }
  return sent;
}

/**
 * Reads once: at most `length` bytes, and none at the end. Rejects after a
 * reset, once all that came before it has been read.
 */
async function read(conn: Conn, length: number): Promise<Uint8Array> {
  if ("read" in conn) {
    const buf = new Uint8Array(length);
    return buf.subarray(0, await conn.read(buf) ?? 0);
  }
  const state = conn.data; // Bun's: the callbacks below have filled it
  while (state.unread.length === 0 && !state.end) {
    conn.resume();
    await state.wait();
  }
  const chunk = state.unread.shift();
  if (!chunk && state.end?.length) throw state.end.shift();
  if (!chunk) return new Uint8Array();
  if (chunk.length > length) state.unread.unshift(chunk.subarray(length));
  return chunk.subarray(0, length);
}

/** Prints the parts, text as UTF-8, and waits until stdout has taken them. */
async function echo(...parts: (string | Uint8Array)[]): Promise<void> {
  if (runtime.Deno) {
    const { stdout } = runtime.Deno;
    for (const part of parts) {
      let rest = typeof part === "string" ? encoder.encode(part) : part;
      // Not stdout.write(): it goes through a thread, and is half as fast.
      while (rest.length > 0) rest = rest.subarray(stdout.writeSync(rest));
    }
  } else {
    // One call for each part: given several, it does not wait for all of them.
    await Promise.all(parts.map((part) => runtime.console.write(part)));
  }
}

/** Makes a handler for an error: it says on stderr what failed, and why. */
function warn(failed: string) {
  return ({ message, code }: SystemError) =>
    console.warn(failed + message + (code ? ` (${code})` : ""));
}

/** Makes a handler for an error: it says the same, and exits with 1. */
function die(failed: string) {
  return (error: SystemError) => {
    warn(failed)(error);
    return process.exit(1);
  };
}

/** Deno or Bun, whichever runs this. Ends the program where neither does. */
function findRuntime(): DenoRuntime | BunRuntime {
  if ("Deno" in globalThis || "Bun" in globalThis) return globalThis;
  console.warn("請用 bun server.ts 或 deno run --allow-net server.ts 執行");
  return process.exit(1);
}

/** Listens; on port 0, on any free one. Rejects where the system refuses. */
async function listen(hostname: string, port: number): Promise<Listener> {
  if (runtime.Deno) {
    // 4 clients may wait, as in PHP. For many at once, leave tcpBacklog out.
    return await runtime.Deno.listen({ hostname, port, tcpBacklog: 4 });
  }
  const queue: BunSocket[] = [];
  let closed = false;
  const { wait, wake } = signal();
  const callbacks = bunCallbacks();
  const listener = runtime.Bun.listen({
    hostname,
    port,
    allowHalfOpen: true, // the other end may stop sending and still receive
    socket: {
      ...callbacks,
      open(socket) {
        callbacks.open(socket);
        queue.push(socket);
        wake();
      },
    },
  });
  return {
    addr: listener,
    async accept() {
      let socket;
      while (!(socket = queue.shift())) {
        if (closed) throw Error("the listener is closed");
        await wait();
      }
      return socket;
    },
    close() {
      closed = true;
      listener.stop();
      for (const socket of queue.splice(0)) socket.close();
      wake();
    },
  };
}

/**
 * Bun calls a function when something comes. These functions put it into
 * `socket.data`, for read() and write(), and wake whoever waits for it.
 */
function bunCallbacks() {
  const ended = ({ data }: BunSocket, error?: Error) => {
    // A reset after the end changes nothing: all has come.
    data.end ??= error ? [error] : [];
    data.wake();
  };
  return {
    binaryType: "uint8array" as const, // as on Deno; a Buffer by default
    open(socket: BunSocket) {
      socket.pause(); // Bun reads by itself, but read() says when
      socket.data = { unread: [], ...signal() };
    },
    data(socket: BunSocket, chunk: Uint8Array) {
      // Two that nobody has read are enough: from now on the sender waits.
      if (socket.data.unread.length > 0) socket.pause();
      socket.data.unread.push(chunk);
      socket.data.wake();
    },
    drain: ({ data }: BunSocket) => data.wake(),
    end: ended,
    close: ended,
  };
}

/** Whoever awaits wait() goes on at the next wake(), however many they are. */
function signal() {
  const waiting: (() => void)[] = [];
  return {
    wait: () => new Promise<void>((resolve) => waiting.push(resolve)),
    wake: () => waiting.splice(0).forEach((resolve) => resolve()),
  };
}

// ---- What is used of Deno and of Bun, under names that take none of theirs away

interface DenoRuntime {
  Deno: {
    args: string[];
    listen(options: Address & { tcpBacklog: number }): Listener;
    stdout: { writeSync(data: Uint8Array): number };
  };
}

interface BunRuntime {
  Deno?: undefined;
  Bun: {
    argv: string[];
    listen(
      options: Address & {
        allowHalfOpen: boolean;
        socket: ReturnType<typeof bunCallbacks>;
      },
    ): { port: number; stop(): void };
  };
  console: { write(part: string | Uint8Array): number | Promise<number> };
}

interface Listener {
  addr: { port: number };
  accept(): Promise<Conn>;
  close(): void;
}

interface DenoConn {
  /** Reads into `buf`, and gives how many bytes, or null at the end. */
  read(buf: Uint8Array): Promise<number | null>;
  write(data: Uint8Array): Promise<number>;
  close(): void;
}

interface BunSocket {
  /** What has come; `end` is set at the end, with the error not yet thrown. */
  data: { unread: Uint8Array[]; end?: Error[] } & ReturnType<typeof signal>;
  /** Gives how many bytes it took: 0 until `drain`, less once it is closed. */
  write(data: Uint8Array): number;
  close(): void;
  pause(): void;
  resume(): void;
}

type Conn = DenoConn | BunSocket;
type Address = { hostname: string; port: number };
type SystemError = Error & { code?: string };
