"""A web server on 127.0.0.1 whose answers a test scripts."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Loopback:
    """Serves `content` at every path; each request takes the next of `answers`, then the last.

    An answer is one of the methods below. `ranges` lists the Range header of every request.
    """

    def __init__(self, content: bytes, *answers):
        self.content, self.answers, self.ranges = content, list(answers), []
        self.url = ""
        self.released = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.ranges.append(handler.headers.get("Range"))
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        answer(self, handler)

    def send(self, handler, body, *, status=200, length=None, headers=None) -> None:
        handler.send_response(status)
        for key, value in (headers or {}).items():
            handler.send_header(key, value)
        if length is not False:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(body)

    def good(self, handler) -> None:
        """The whole file, or the asked range with status 206."""
        asked = handler.headers.get("Range")
        if asked is None:
            self.send(handler, self.content)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.content):
            self.send(handler, b"", status=416)
            return
        size = len(self.content)
        headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        self.send(handler, self.content[start:], status=206, headers=headers)

    def ignoring_ranges(self, handler) -> None:
        self.send(handler, self.content)

    def without_length(self, handler) -> None:
        self.send(handler, self.content, length=False)

    def truncated(self, handler) -> None:
        """Announces the whole file and closes after a third."""
        self.send(handler, self.content[: len(self.content) // 3], length=len(self.content))

    def corrupted(self, handler) -> None:
        self.send(handler, self.content[:-1] + bytes([self.content[-1] ^ 1]))

    def stalled(self, handler) -> None:
        """Announces the whole file, sends a third and then nothing."""
        self.truncated(handler)
        handler.wfile.flush()
        self.released.wait(20)

    def wrong_range(self, handler) -> None:
        headers = {"Content-Range": f"bytes 0-9/{len(self.content)}"}
        self.send(handler, self.content[:10], status=206, headers=headers)

    def missing(self, handler) -> None:
        self.send(handler, b"no such file", status=404)

    def busy(self, handler) -> None:
        self.send(handler, b"later", status=503)


@contextlib.contextmanager
def serving(content: bytes, *answers):
    """Runs a `Loopback`; gives it with its `url`."""
    loopback = Loopback(content, *answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            loopback.answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    loopback.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield loopback
    finally:
        loopback.released.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
