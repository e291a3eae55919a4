/**
 * The client of the classic PHP socket example, on the native TCP of Bun or of
 * Deno: it connects, sends a message, and prints what the server sends until
 * the server closes.
 *
 *     bun client.ts [ip] [port] [message]
 *     deno run --allow-net client.ts [ip] [port] [message]
 */
export {}; // makes this a module, in which await may stand at the top

const runtime = onDeno() ?? onBun() ?? onNeither();
const { ip, port, message } = await readArguments();

tell(`正在連線 ${ip.includes(":") ? `[${ip}]` : ip}:${port}`);

// socket_create and socket_connect are one call here.
const sock = await connect(ip, port);
tell("已連線");

// socket_write
const sent = await write(sock, message);
if (sent !== null) tell(`已傳送 ${sent} 個位元組`);

// socket_read
let received = 0;
let buf;
while ((buf = await read(sock, 8192)).length > 0) {
  await echo(buf);
  received += buf.length;
}
tell(`已收到 ${received} 個位元組`);

// socket_close
sock.close();
tell("已關閉連線");
if (sent === null) process.exit(1); // socket_write has failed

/** Connects, or ends the program. */
function connect(hostname: string, port: number): Promise<Conn> {
  return runtime.connect(hostname, port)
    .catch(die("socket_connect() 失敗的原因是:"));
}

/**
 * Sends all of `data`, text as UTF-8. Returns its length in bytes, or null if
 * that failed: what the server said before can still be read.
 */
function write(
  conn: Conn,
  data: string | Uint8Array,
): Promise<number | null> {
  return writeAll(conn, data)
    .catch(warn("socket_write() 失敗的原因是:"));
}

/** Reads once, at most `length` bytes: none at the end. */
async function read(conn: Conn, length: number): Promise<Uint8Array> {
  const buf = new Uint8Array(length);
  const count = await conn.read(buf)
    .catch(die("socket_read() 失敗的原因是:"));
  return buf.subarray(0, count ?? 0);
}

/** Writes all of `data` to stdout, text as UTF-8, or ends the program. */
function echo(data: string | Uint8Array): Promise<number> {
  return writeAll(runtime.stdout, data)
    .catch(die("echo 失敗的原因是:"));
}

/**
 * Writes all of `data`, since a single write may take only a part. Returns its
 * length in bytes, and throws what `to.write` throws.
 */
async function writeAll(
  to: Writer,
  data: string | Uint8Array,
): Promise<number> {
  const all = typeof data === "string" ? new TextEncoder().encode(data) : data;
  for (let sent = 0; sent < all.length;) {
    sent += await to.write(all.subarray(sent));
  }
  return all.length;
}

/** Prints a line on stderr, where there is one. */
function tell(line: string): void {
  try {
    console.warn(line); // not error(), which Bun prints in red
  } catch {
    // Deno throws for a stderr that is full or closed: nobody is left to tell.
  }
}

/** Makes a handler for an error: it prints on stderr what failed, and why. */
function warn(failed: string) {
  return (error: SystemError) => {
    tell(failed + strerror(error));
    return null;
  };
}

/** Makes a handler for an error: it prints the same, and exits with 1. */
function die(failed: string) {
  return (error: SystemError) => {
    warn(failed)(error);
    return process.exit(1);
  };
}

/**
 * The reason for an error in words and its code: `Broken pipe (EPIPE)`. Without
 * a code, as on Deno for an unknown name, the error's own message.
 */
function strerror({ code, message }: SystemError): string {
  // Bun's messages name the call and no reason. These are glibc's words.
  const words: Record<string, string> = {
    DNS_ENOTFOUND: "Name or service not known",
    EACCES: "Permission denied",
    EADDRINUSE: "Address already in use",
    EADDRNOTAVAIL: "Cannot assign requested address",
    ECONNREFUSED: "Connection refused",
    ECONNRESET: "Connection reset by peer",
    EHOSTUNREACH: "No route to host",
    EINVAL: "Invalid argument",
    ENETUNREACH: "Network is unreachable",
    ENOSPC: "No space left on device",
    ENOTCONN: "Transport endpoint is not connected",
    EPIPE: "Broken pipe",
    ETIMEDOUT: "Connection timed out",
  };
  if (code === undefined) return message;
  return `${words[code] ?? message.replace(/ \(os error \d+\)/, "")} (${code})`;
}

/** Checks the arguments. A wrong one, or `--help`, ends the program. */
async function readArguments() {
  const { args } = runtime;
  const usage = "用法:client.ts [ip] [port] [message]   預設 127.0.0.1 1935";
  const greeting = "你好,伺服器!\n";
  const [ip = "127.0.0.1", port = "1935", message = greeting, ...others] = args;
  // A third argument is a message, whatever it says.
  if ([ip, port].some((text) => text === "-h" || text === "--help")) {
    await echo(`${usage}\n`);
    process.exit(0);
  }
  const wrong = !/^0*[1-9]\d*$/.test(port) || Number(port) > 65535
    ? `port 必須是 1 到 65535 的整數:${JSON.stringify(port)}`
    : others.length > 0
    ? `引數太多:${JSON.stringify(others[0])}`
    : "";
  if (wrong) {
    tell(`${wrong}\n${usage}`);
    process.exit(2);
  }
  return { ip, port: Number(port), message };
}

// ---- Deno and Bun. All of the above is written against Deno's Conn; onBun()
// ---- turns Bun's callbacks into the same. Of both, just what is used is
// ---- declared here, so that this one file needs no package of types.

interface Writer {
  /** Takes at least one byte of `data`. Returns how many it took. */
  write(data: Uint8Array): number | Promise<number>;
}

interface Conn extends Writer {
  /** Reads into `buf`. Returns how many bytes, or null at the end. */
  read(buf: Uint8Array): Promise<number | null>;
  close(): void;
}

interface SystemError extends Error {
  code?: string;
}

/** Node's, which Bun and Deno have too; Bun has no exit of its own. */
declare const process: { exit(code: number): never };

declare const Deno: {
  args: string[];
  connect(options: { hostname: string; port: number }): Promise<Conn>;
  stdout: { writeSync(data: Uint8Array): number };
} | undefined;

/** What the code above needs of Deno; undefined elsewhere. */
function onDeno() {
  if (typeof Deno === "undefined") return undefined;
  const { args, connect, stdout } = Deno;
  return {
    args,
    connect: (hostname: string, port: number) => connect({ hostname, port }),
    // Not write(), which goes through a thread and is slower.
    stdout: { write: (data: Uint8Array) => stdout.writeSync(data) },
  };
}

declare const Bun: {
  argv: string[];
  dns: {
    lookup(hostname: string, options: { backend: "libc" }): Promise<unknown>;
  };
  connect(options: {
    hostname: string;
    port: number;
    allowHalfOpen: boolean;
    socket: ReturnType<typeof bunHandlers>;
  }): Promise<unknown>;
  stdout: {
    writer(): { write(data: Uint8Array): unknown; flush(): unknown };
  };
} | undefined;

declare function setImmediate<T>(run: (value: T) => void, value: T): unknown;

interface BunSocket {
  data: BunState;
  /** Returns how many bytes it took: 0 until `drain`, -1 once closed. */
  write(data: Uint8Array): number;
  end(): void;
  pause(): void;
  ref(): void;
  resume(): void;
}

interface BunState {
  unread: Uint8Array[];
  /** Undefined till the other end ends: then null, or the error it met. */
  end?: SystemError | null;
  wait(): Promise<void>;
  wake(): void;
}

/** The same of Bun; undefined elsewhere. */
function onBun() {
  if (typeof Bun === "undefined") return undefined;
  const { argv, connect, dns, stdout } = Bun;
  const writer = stdout.writer();
  return {
    args: argv.slice(2),
    connect: (hostname: string, port: number) =>
      new Promise<Conn>((resolve, reject) => {
        connect({
          hostname,
          port,
          allowHalfOpen: true, // a server that has sent all can still receive
          socket: bunHandlers(resolve),
        }).catch(async (error) => {
          // Bun up to 1.3 says ECONNREFUSED also of a name that does not
          // resolve: ask again, just for the reason.
          await dns.lookup(hostname, { backend: "libc" }).catch(reject);
          reject(error);
        });
      }),
    stdout: {
      async write(data: Uint8Array) {
        const written = await writer.write(data);
        const flushed = await writer.flush();
        // Bun up to 1.4.0 may give true for a closed pipe instead of rejecting.
        if (written === true || flushed === true) throw systemError("EPIPE");
        return data.length;
      },
    },
  };
}

/** Bun's callbacks. `opened` is given a Conn for each socket that opens. */
function bunHandlers(opened: (conn: Conn) => void) {
  const wake = ({ data }: BunSocket) => data.wake();
  return {
    open(socket: BunSocket) {
      // Bun reads on its own: nothing may be read before it is asked for.
      socket.pause();
      socket.ref(); // or Bun up to 1.2.0 ends with its listener
      socket.data = { unread: [], ...signal() };
      opened(bunConn(socket));
    },
    data(socket: BunSocket, chunk: Uint8Array) {
      // Nobody has read what came before: let the rest wait in the system, or
      // a sender that is faster than the reader fills the memory.
      if (socket.data.unread.length > 0) socket.pause();
      socket.data.unread.push(chunk);
      socket.data.wake();
    },
    drain: wake,
    end(socket: BunSocket) {
      // Bun up to 1.3 calls this for a reset too (oven-sh/bun#39600). Either
      // close() follows at once, with the error, or this again and again: the
      // second time means a reset.
      if (socket.data.end === undefined) {
        socket.data.end = null;
      } else {
        socket.data.end = systemError("ECONNRESET");
        socket.end();
      }
      setImmediate(wake, socket); // so that such a close() comes first
    },
    close(socket: BunSocket, error?: SystemError) {
      const { data } = socket;
      // Bun up to 1.3 takes epoll's EPOLLERR for an errno: 8, which is ENOEXEC.
      if (error?.code === "ENOEXEC") data.end = systemError("ECONNRESET");
      // After the end a reset changes nothing: everything has come.
      else if (data.end === undefined) data.end = error ?? null;
      data.wake();
    },
  };
}

/** A Bun socket as a Conn. */
function bunConn(socket: BunSocket): Conn {
  const state = socket.data;
  const throwError = () => {
    const error = state.end;
    if (!error) return;
    state.end = null; // as the system does: it tells of an error once
    throw error;
  };
  return {
    async read(buf) {
      while (state.unread.length === 0) {
        throwError();
        if (state.end === null) return null;
        socket.resume();
        await state.wait();
      }
      const [chunk] = state.unread;
      const length = Math.min(chunk.length, buf.length);
      buf.set(chunk.subarray(0, length));
      state.unread[0] = chunk.subarray(length);
      if (length === chunk.length) state.unread.shift();
      return length;
    },
    async write(data) {
      while (true) {
        const sent = socket.write(data);
        if (sent > 0) return sent;
        // Closed, and Bun may not say why: only a reset does that to a writer.
        if (sent < 0) state.end ??= systemError("ECONNRESET");
        throwError();
        await state.wait();
      }
    },
    close: () => socket.end(), // Bun 1.1 has no socket.close()
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

/** Makes an error like the runtimes' own, where Bun makes none. */
function systemError(code: string): SystemError {
  return Object.assign(new Error(code), { code });
}

/** Says what to run this with, and exits with 1. */
function onNeither(): never {
  tell("請用 bun client.ts 或 deno run --allow-net client.ts 執行");
  return process.exit(1);
}
