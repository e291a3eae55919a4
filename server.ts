/**
 * The server of the classic PHP socket example, on the native TCP of Bun or of
 * Deno: it greets each client, reads from it once, prints what came, closes,
 * and stops after five clients.
 *
 *     bun server.ts [ip] [port] [clients]
 *     deno run --allow-net server.ts [ip] [port] [clients]
 */
export {}; // makes this a module, in which await may stand at the top

const runtime = onDeno() ?? onBun() ?? onNeither();
const encoder = new TextEncoder();
const { ip, port, clients } = await readArguments();

// socket_create, socket_bind and socket_listen are one call here.
const sock = await listen(ip, port);
tell(`正在監聽 ${getsockname(sock)}`);

const buf = new Uint8Array(8192); // one is enough for one client at a time
let count = 0;
do {
  // socket_accept
  const msgsock = await accept(sock);

  // socket_write
  await write(msgsock, encoder.encode("測試成功!\n"));

  await echo(encoder.encode("測試成功了啊\n"));

  // socket_read
  const length = await read(msgsock, buf);

  const talkback = bytes("收到的資訊:", buf.subarray(0, length), "\n");
  await echo(talkback);

  // socket_close
  msgsock.close();
} while (++count < clients);

// socket_close
sock.close();

/** Listens, or ends the program. */
function listen(hostname: string, port: number): Promise<Listener> {
  return runtime.listen(hostname, port)
    .catch(die("socket_bind() 失敗的原因是:"));
}

/** The next client, in the order in which they connected. */
async function accept(listener: Listener): Promise<Conn> {
  const step = "socket_accept() failed: reason: ";
  while (true) {
    const conn = await listener.accept().catch((error: SystemError) =>
      // One that reset while it waited is nobody to talk to: the next is due.
      error.name === "NotConnected" ? warn(step)(error) : die(step)(error)
    );
    if (conn) return conn;
  }
}

/**
 * Sends all of `data`: how many bytes, or null where that failed, for a client
 * that is gone spoils its own turn and not the server.
 */
function write(conn: Conn, data: Uint8Array): Promise<number | null> {
  return writeAll(conn, data)
    .catch(warn("socket_write() 失敗的原因是:"));
}

/** Reads once: how many bytes are now in `buf`, 0 at the end or a failure. */
async function read(conn: Conn, buf: Uint8Array): Promise<number> {
  return await conn.read(buf)
    .catch(warn("socket_read() 失敗的原因是:")) ?? 0;
}

/** Writes all of `data` to stdout, or ends the program. */
function echo(data: Uint8Array): Promise<number> {
  return writeAll(runtime.stdout, data)
    .catch(die("echo 失敗的原因是:"));
}

/**
 * Writes all of `data`, since a single write may take only a part. Gives its
 * length in bytes, and throws what `to.write` throws.
 */
async function writeAll(to: Writer, data: Uint8Array): Promise<number> {
  for (let sent = 0; sent < data.length;) {
    sent += await to.write(data.subarray(sent));
  }
  return data.length;
}

/** Says a line on stderr, where there is one. */
function tell(line: string): void {
  try {
    console.error(line);
  } catch {
    // Deno throws for a stderr that is full or closed: nobody is left to tell.
  }
}

/** Makes a handler that says on stderr which step failed and why. */
function warn(step: string) {
  return (error: SystemError) => {
    tell(step + strerror(error));
    return null;
  };
}

/** Makes a handler that says which step failed and why, and exits with 1. */
function die(step: string) {
  return (error: SystemError) => {
    warn(step)(error);
    return process.exit(1);
  };
}

/**
 * The reason for an error in the system's words and its code, the same on both
 * runtimes: `Broken pipe (EPIPE)`. Without a code, the error's own message.
 */
function strerror({ code, message }: SystemError): string {
  // Bun's own messages give no reason. The words are those of glibc's strerror.
  const words: Record<string, string> = {
    DNS_ENOTFOUND: "Name or service not known",
    EACCES: "Permission denied",
    EADDRINUSE: "Address already in use",
    EADDRNOTAVAIL: "Cannot assign requested address",
    ECONNREFUSED: "Connection refused",
    ECONNRESET: "Connection reset by peer",
    EHOSTUNREACH: "No route to host",
    ENETUNREACH: "Network is unreachable",
    ENOSPC: "No space left on device",
    ENOTCONN: "Transport endpoint is not connected",
    EPIPE: "Broken pipe",
    ETIMEDOUT: "Connection timed out",
  };
  if (code === undefined) return message;
  return `${words[code] ?? message.replace(/ \(os error \d+\)/, "")} (${code})`;
}

/** The arguments, checked. Wrong ones, and `--help`, end the program. */
async function readArguments() {
  const { args } = runtime;
  const usage = "用法:server.ts [ip] [port] [clients]   預設 127.0.0.1 1935 5";
  const [ip = "127.0.0.1", port = "1935", clients = "5", ...others] = args;
  if (args.includes("-h") || args.includes("--help")) {
    await echo(encoder.encode(`${usage}\n`));
    process.exit(0);
  }
  const wrong = !/^\d+$/.test(port) || Number(port) > 65535
    ? `port 必須是 0 到 65535 的整數:${JSON.stringify(port)}`
    : !/^0*[1-9]\d*$|^Infinity$/.test(clients)
    ? `clients 必須是正整數或 Infinity:${JSON.stringify(clients)}`
    : others.length > 0
    ? `引數太多:${JSON.stringify(others[0])}`
    : "";
  if (wrong) {
    tell(`${wrong}\n${usage}`);
    process.exit(2);
  }
  return { ip, port: Number(port), clients: Number(clients) };
}

/** The address that a listener really has, as `ip:port`. */
function getsockname({ addr: { hostname, port } }: Listener): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** The parts joined into one array of bytes, strings as UTF-8. */
function bytes(...parts: (string | Uint8Array)[]): Uint8Array {
  const arrays = parts.map((part) =>
    typeof part === "string" ? encoder.encode(part) : part
  );
  const all = new Uint8Array(arrays.reduce((sum, a) => sum + a.length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}

// ---- Deno and Bun. The story stands on the shape of Deno's Listener and Conn,
// ---- which Bun's callbacks are given here.

interface Writer {
  /** Takes at least one byte of `data`, and gives how many it took. */
  write(data: Uint8Array): number | Promise<number>;
}

interface Conn extends Writer {
  /** Puts what has come into `buf`: how many bytes, or null at the end. */
  read(buf: Uint8Array): Promise<number | null>;
  close(): void;
}

interface Listener {
  addr: { hostname: string; port: number };
  /**
   * The next client. Deno asks for its address, which one that reset while it
   * waited has no more: it rejects with NotConnected for such a client.
   */
  accept(): Promise<Conn>;
  close(): void;
}

interface SystemError extends Error {
  code?: string;
}

/** All three runtimes have it, and Bun has no other exit. */
declare const process: { exit(code: number): never };

declare const Deno: {
  args: string[];
  listen(
    options: { hostname: string; port: number; tcpBacklog: number },
  ): Listener;
  stdout: { writeSync(data: Uint8Array): number };
} | undefined;

/** What the story needs of Deno, or undefined elsewhere. */
function onDeno() {
  if (typeof Deno === "undefined") return undefined;
  const { args, listen, stdout } = Deno;
  return {
    args,
    // PHP's backlog: Deno sets it from 2.5 on, Bun has none to set.
    listen: async (hostname: string, port: number) =>
      await listen({ hostname, port, tcpBacklog: 4 }),
    // Its async write goes through a thread: a quarter fewer clients a second.
    stdout: { write: (data: Uint8Array) => stdout.writeSync(data) },
  };
}

declare const Bun: {
  argv: string[];
  dns: {
    lookup(
      hostname: string,
      options: { backend: "libc" },
    ): Promise<{ address: string }[]>;
  };
  listen(options: {
    hostname: string;
    port: number;
    allowHalfOpen: boolean;
    socket: ReturnType<typeof bunHandlers>;
  }): { port: number; stop(closeActiveConnections: boolean): void };
  stdout: {
    writer(): { write(data: Uint8Array): unknown; flush(): unknown };
  };
} | undefined;

declare function setImmediate<T>(run: (value: T) => void, value: T): unknown;

interface BunSocket {
  data: BunState;
  /** Gives how many bytes it took: 0 until `drain`, -1 once closed. */
  write(data: Uint8Array): number;
  end(): void;
  pause(): void;
  resume(): void;
}

interface BunState {
  unread: Uint8Array[];
  /** Null at the end, an error where that failed, and until then undefined. */
  end?: SystemError | null;
  changed(): void;
}

/** The same of Bun, its callbacks in Deno's shape, or undefined elsewhere. */
function onBun() {
  if (typeof Bun === "undefined") return undefined;
  const { argv, dns, listen, stdout } = Bun;
  const writer = stdout.writer();
  return {
    args: argv.slice(2),
    async listen(hostname: string, port: number): Promise<Listener> {
      // Bun's listener tells the name that it was given, not the address.
      const [{ address }] = /^\d+(\.\d+){3}$/.test(hostname)
        ? [{ address: hostname }]
        : await dns.lookup(hostname, { backend: "libc" });
      const waiting: Conn[] = [];
      let changed = () => {};
      const listener = listen({
        hostname: address,
        port,
        allowHalfOpen: true, // a client that has said all still gets all
        socket: bunHandlers((conn) => {
          waiting.push(conn);
          changed();
        }),
      });
      return {
        addr: { hostname: address, port: listener.port },
        async accept() {
          while (true) {
            const conn = waiting.shift();
            if (conn) return conn;
            await new Promise<void>((resolve) => changed = resolve);
          }
        },
        close: () => listener.stop(true),
      };
    },
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
  const changed = ({ data }: BunSocket) => data.changed();
  return {
    open(socket: BunSocket) {
      // Bun reads on its own: nothing may be read before it is asked for.
      socket.pause();
      socket.data = { unread: [], changed() {} };
      opened(bunConn(socket));
    },
    data(socket: BunSocket, chunk: Uint8Array) {
      // Nobody has read what came before: let the rest wait in the system.
      if (socket.data.unread.length > 0) socket.pause();
      socket.data.unread.push(chunk);
      socket.data.changed();
    },
    drain: changed,
    end(socket: BunSocket) {
      // Bun up to 1.3 says end for a reset too (oven-sh/bun#39600): then close
      // with an error in the same tick, or nothing but end again and again.
      if (socket.data.end === undefined) {
        socket.data.end = null;
      } else {
        socket.data.end = systemError("ECONNRESET");
        socket.end();
      }
      setImmediate(changed, socket);
    },
    close(socket: BunSocket, error?: SystemError) {
      const { data } = socket;
      // Bun up to 1.3 takes epoll's EPOLLERR for an errno: 8, which is ENOEXEC.
      if (error?.code === "ENOEXEC") data.end = systemError("ECONNRESET");
      // A reset behind the end is no news: all was said.
      else if (data.end === undefined) data.end = error ?? null;
      data.changed();
    },
  };
}

/** A Bun socket as a Conn. */
function bunConn(socket: BunSocket): Conn {
  const state = socket.data;
  const change = () => new Promise<void>((done) => state.changed = done);
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
        await change();
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
        // Closed, and Bun may never say why: a reset is what does that.
        if (sent < 0) state.end ??= systemError("ECONNRESET");
        throwError();
        await change();
      }
    },
    close: () => socket.end(),
  };
}

/** An error as the runtimes make them, for the places where Bun makes none. */
function systemError(code: string): SystemError {
  return Object.assign(new Error(code), { code });
}

/** Says what to run this with, and exits with 1. */
function onNeither(): never {
  tell("請用 bun server.ts 或 deno run --allow-net server.ts 執行");
  return process.exit(1);
}
