"""Requests that are broken in every way but their images: forms, JSON, addresses, headers, HTTP."""

from __future__ import annotations

from tests.service.hostile import noise, saved

Request = tuple[str, str, dict[str, str], bytes]
"""Method, path, headers and body; each is to be refused by a 4xx."""

MULTIPART = "multipart/form-data; boundary=b"


def part(name: bytes, content: bytes, more: bytes = b"") -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="'
        + name
        + b'"'
        + more
        + (b"\r\n\r\n" + content + b"\r\n")
    )


IMAGE = part(b"file", saved(noise(9, 9), "PNG"), b'; filename="a.png"')
END = b"--b--\r\n"


def posts(path: str, kind: str, *bodies: bytes) -> list[Request]:
    return [("POST", path, {"Content-Type": kind}, body) for body in bodies]


BROKEN: list[Request] = [
    *posts("/classify", "multipart/form-data", IMAGE + END),
    *posts("/classify", "multipart/form-data; boundary=", IMAGE + END),
    *posts("/classify", "multipart/form-data; boundary=" + "x" * 5000, IMAGE + END),
    *posts("/classify", "multipart/form-data; boundary=other", IMAGE + END),
    *posts("/classify", "multipart/form-data; boundary=\"\\\"", IMAGE + END),
    *posts("/classify", "application/x-www-form-urlencoded", b"file=a&k=3", b"%ff=%00&" * 3000),
    *posts("/classify", "application/octet-stream", saved(noise(9, 9), "PNG")),
    *posts("/classify", "text/plain; charset=nothing", b"a"),
    *posts("/classify", "", b"a"),
    *posts(
        "/classify", MULTIPART, b"", END, b"--b", b"--b\r\n", b"\r\n" * 1000, IMAGE[:20],
        b"--b\r\n\r\nfile\r\n" + END, b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n" + END,
        b"--b\r\nContent-Disposition: attachment\r\n\r\na\r\n" + END,
        b"--b\r\nno header at all\r\n\r\na\r\n" + END, b"--b\r\n" + b"A: b\r\n" * 5000,
        b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\n" + END,
        IMAGE + part(b"k", b"\xff\xfe\x80") + END, IMAGE + part(b"k", b"9" * 5000) + END,
        IMAGE + part(b"k", b"nan") + END, IMAGE + part(b"res", b"1e999") + END,
        IMAGE + part(b"dataset", b"\xff\xfe\x80") + END,
        IMAGE + part(b"dataset", b"\0") + END, IMAGE + part(b"vote", b"\xed\xa0\x80") + END,
        IMAGE + part(b"model", b"../../etc/passwd") + END,
        IMAGE + part(b"k", b"3", b'; filename="k.png"') + END,
        part(b"file", b"no file") + END, part(b"\xff\0", b"a") + END,
        b"".join(part(b"field%d" % n, b"a") for n in range(5000)) + END,
        b"".join(part(b"k", b"3") for _ in range(900)) + END,
        part(b"file", b"", b'; filename="' + b"\0" * 20 + b'"') + END,
        part(b"file", b"a", b'; filename="' + b"a" * 60_000 + b'.png"') + END,
        part(b"file", b"a", b"; filename*=utf-16''%ff%fe") + END,
        part(b"dataset", b"a" * 3_000_000) + END,
    ),
    *posts(
        "/classify/batch", MULTIPART, END, part(b"files", b"no file") + END,
        b"".join(part(b"files", b"x", b'; filename="x"') for _ in range(65)) + END,
        b"".join(part(b"files", b"x", b'; filename="x"') for _ in range(3000)) + END,
    ),
    *posts(
        "/cases", MULTIPART, IMAGE + END, IMAGE + part(b"dataset", b"\xff") + END,
        IMAGE + part(b"dataset", b"phantom-cells") + part(b"label", b"\xff") * 500 + END,
        IMAGE + part(b"dataset", b"phantom-cells") + part(b"label", b"9" * 5000) + END,
        IMAGE + part(b"dataset", b"phantom-cells") + part(b"label", b"\xd9\xa3") + END,
    ),
    *posts(
        "/search", "application/json", b"", b"null", b"[]", b"\xff\xfe", b"\0", b"{", b"{}",
        b"[" * 100_000, b'{"id":' * 50_000, b'{"embedding":' + b"[" * 200_000,
        b'{"embedding":[' + b"0.5," * 99_999 + b"0.5]}", 
        b'{"embedding":[' + b"1," * 400_000 + b"1]}",
        b'{"embedding":[NaN]}', b'{"embedding":[' + b"NaN," * 323 + b"NaN]}",
        b'{"embedding":[' + b"Infinity," * 323 + b"-Infinity]}",
        b'{"embedding":[' + b"1e400," * 323 + b"1e400]}", b'{"embedding":[' + b"9" * 5000 + b"]}",
        b'{"embedding":[' + b"0," * 323 + b"0]}", b'{"embedding":["a",null,{}]}',
        b'{"id":"phantom-cells/test/3","k":NaN}', b'{"id":"phantom-cells/test/3","k":1e400}',
        b'{"id":"phantom-cells/test/3","k":' + b"9" * 5000 + b"}",
        b'{"id":"phantom-cells/test/' + b"9" * 200 + b'"}', b'{"id":"' + b"/" * 290 + b'"}',
        b'{"id":"\\ud800/test/3"}', b'{"id":"phantom-cells/test/\\u0663"}', b'{"id":"\\u0000"}',
        b'{"id":"phantom-cells/test/3","dataset":"\\udfff"}', b'{"\\ud800":1}',
        b'{"id":"../../../etc/passwd/test/3"}', b'{"id":"http://198.51.100.1/test/3"}',
        b'{"id":"a",' * 3, b'"' + b"a" * 900_000 + b'"', b" " * 2_000_000,
    ),
    *posts("/search", "application/json; charset=utf-16", '{"k":3}'.encode("utf-16")),
    *posts("/search", "text/xml", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>"),
    *(
        ("GET", path, {}, b"") for path in (
            "/cases/..%2f..%2fetc/train/0", "/cases/%2e%2e/%2e%2e/etc/passwd",
            "/cases/phantom-cells/train/%2e%2e%2f0", "/cases/phantom-cells/train/-1",
            "/cases/phantom-cells/train/1e3", "/cases/phantom-cells/train/%00",
            "/cases/phantom-cells/train/" + "9" * 5000, "/cases/phantom-cells/train/%d9%a3",
            "/cases/%ff%fe/train/0", "/cases/%ed%a0%80/train/0/image", "/cases/a%00b/train/0/image",
            "/cases/phantom-cells/train/0/image?res=" + "9" * 5000, "/cases/" + "a" * 20_000,
            "/cases/phantom-cells/train/0/image?res=%ff", "/cases?dataset=%ff%00&count=0",
            "/cases?dataset=phantom-cells&seed=" + "9" * 5000, "/cases?" + "a=b&" * 10_000,
            "/static/..%2f..%2fservice%2fapp.py", "/static/%2e%2e/app.py", "/static/%00",
            "/static//etc/passwd", "/static/" + "a" * 5000, "//", "/%", "/%ff", "/.git/config",
        )
    ),
    ("DELETE", "/cases/phantom-cells/train/0", {"Authorization": "Bearer \xff"}, b""),
    ("DELETE", "/cases/phantom-cells/train/0", {"Authorization": "Bearer " + "x" * 50_000}, b""),
    ("DELETE", "/cases/phantom-cells/train/0", {"Authorization": "Basic \xff\xff"}, b""),
    ("DELETE", "/cases/phantom-cells/train/0", {"Authorization": "Basic " + "A" * 9999}, b""),
    ("DELETE", "/cases/phantom-cells/train/%2e%2e%2f0", {}, b""),
    ("DELETE", "/cases/phantom-cells/train/999999", {}, b"a body " * 1000),
    ("GET", "/indexes", {"Host": "elsewhere.example"}, b""),
    ("GET", "/indexes", {"Host": "\xff"}, b""),
    ("BREW", "/classify", {}, b""),
    ("CONNECT", "/classify", {}, b""),
]  # fmt: skip

_POST = b"POST /classify HTTP/1.1\r\nHost: localhost\r\n"
START = _POST + b"Content-Type: multipart/form-data; boundary=b\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"

RAW = [
    b"\0" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03", b"GET / HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    GET + b"no colon\r\n\r\n", GET + b"A: \0\r\n\r\n", GET + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
    GET + b"X: y\r\n" * 200_000 + b"\r\n",
    START + b"Content-Length: -1\r\n\r\n" + IMAGE + END,
    START + b"Content-Length: a\r\n\r\n",
    START + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    START + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n" + IMAGE,
    START + b"Content-Length: 20000000\r\n\r\n" + IMAGE,
    START + b"Content-Length: 50\r\n\r\n" + IMAGE + END,
    START + b"Content-Length: 5000\r\n\r\n" + IMAGE,
    START + b"Content-Length: 5000\r\n\r\n",
    START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET + b"\r\n",
    START + b"Transfer-Encoding: x\r\n\r\n",
    CHUNKED + b"ffffffffffffffffff\r\n", CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n",
    CHUNKED + b"1\r\na\r\n" * 20_000,
    START + b"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n",
    START,
]  # fmt: skip
"""Bytes, each on a connection of their own; some end in the middle."""
