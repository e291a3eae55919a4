/**
 * The client of the classic PHP socket example, on the native TCP of Bun and of
 * Deno: it connects, sends a message, and prints what the server sends until
 * the server closes.
 *
 *     bun client.ts [ip] [port] [message]
 *     deno run --allow-net client.ts [ip] [port] [message]
 */
export {}; // makes this a module, in which await may stand at the top

// The functions below need these two.
const runtime = findRuntime();
const encoder = new TextEncoder();

const greeting = "你好,伺服器!\n";
const usage = "用法:client.ts [ip] [port] [message],預設:127.0.0.1 1935 " +
  JSON.stringify(greeting) + " (port:1 到 65535)";
const args = runtime.Deno ? runtime.Deno.args : runtime.Bun.argv.slice(2);
const [ip = "127.0.0.1", port = "1935", message = greeting, ...others] = args;
if (ip === "-h" || ip === "--help") {
  console.log(usage);
  process.exit(0);
}
if (
  // An ip of only digits: somebody gave just the port.
  /^\d*$/.test(ip) || !/^[1-9]\d*$/.test(port) || Number(port) > 65535 ||
  others.length > 0
) {
  console.warn(usage);
  process.exit(2);
}

// socket_create, socket_connect
console.warn(`正在連線到 ${ip}:${port}`);
const sock = await connect(ip, Number(port))
  .catch(die("socket_connect() 失敗的原因是:"));
console.warn("已連線");

// socket_write: where it fails, what the server has said can still be read
const sent = await write(sock, message)
  .catch(warn("socket_write() 失敗的原因是:"));
if (sent !== undefined) console.warn(`已傳送 ${sent} 個位元組`);

// socket_read
let received = 0;
let buf;
do {
  buf = await read(sock, 8192).catch(die("socket_read() 失敗的原因是:"));
  await echo(buf).catch(die("echo 失敗的原因是:"));
  received += buf.length;
} while (buf.length > 0);
console.warn(`已收到 ${received} 個位元組`);

// socket_close
sock.close();
console.warn("已關閉連線");
if (sent === undefined) process.exit(1);

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
  console.warn("請用 bun client.ts 或 deno run --allow-net client.ts 執行");
  return process.exit(1);
}

/** Connects, to an address or a name; rejects where that fails. */
async function connect(hostname: string, port: number): Promise<Conn> {
  if (runtime.Deno) return await runtime.Deno.connect({ hostname, port });
  return await runtime.Bun.connect({
    hostname,
    port,
    allowHalfOpen: true, // the other end may stop sending and still receive
    socket: bunCallbacks(),
  });
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
    connect(options: Address): Promise<Conn>;
    stdout: { writeSync(data: Uint8Array): number };
  };
}

interface BunRuntime {
  Deno?: undefined;
  Bun: {
    argv: string[];
    connect(
      options: Address & {
        allowHalfOpen: boolean;
        socket: ReturnType<typeof bunCallbacks>;
      },
    ): Promise<BunSocket>;
  };
  console: { write(part: string | Uint8Array): number | Promise<number> };
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
