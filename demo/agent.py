"""The demo's agent: an ordinary Python program that tries to get out, in every way it can.

It knows nothing of Sluice. `requests` finds the proxy in the environment as it does anywhere;
the attempts marked "direct" ignore that and open sockets themselves. Each attempt prints one
line: its name, how it ended, and what the agent saw.

  answered   the upstream answered
  refused    somebody on the way said no, and said why
  blocked    the system call failed

Usage: agent.py CA_FILE UPSTREAM_ADDRESS
"""

import errno
import socket
import ssl
import struct
import sys

import requests

CA_FILE, UPSTREAM = sys.argv[1:]
TIMEOUT = 10
MPTCP = 262


def main():
    web = requests.Session()
    direct = requests.Session()
    direct.trust_env = False  # no proxy from the environment

    api = "https://api.demo.internal/v1/status"
    guide = "http://docs.demo.internal/guide/start"
    attempt("https-get", lambda: http(web, "GET", api))
    attempt("http-get", lambda: http(web, "GET", guide))
    attempt("https-get-direct", lambda: http(direct, "GET", api))

    attempt("http-method", lambda: http(web, "POST", guide, data="x"))
    attempt("http-path", lambda: http(web, "GET", "http://docs.demo.internal/admin/users"))
    attempt("http-host", lambda: http(web, "GET", "http://paste.demo.internal/new"))
    attempt("https-host", lambda: http(web, "GET", "https://paste.demo.internal/new"))
    attempt("name-lookup", lambda: lookup("paste.demo.internal"))
    attempt("tcp-direct", lambda: tcp(UPSTREAM, 5432))
    attempt("dns-direct", lambda: dns(UPSTREAM, "c2VjcmV0.paste.demo.internal"))

    attempt("udp-direct", lambda: udp(UPSTREAM, 9999))
    attempt("mptcp-socket", lambda: make(socket.SOCK_STREAM, MPTCP))
    attempt("ping-socket", lambda: make(socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
    attempt("raw-socket", lambda: make(socket.SOCK_RAW, socket.IPPROTO_ICMP))


def attempt(name, act):
    """Carries out one attempt and prints how it ended."""
    try:
        ended, detail = act()
    except requests.exceptions.ProxyError as error:
        # What the proxy said about a CONNECT, without the layers that requests wraps it in.
        ended, detail = "refused", str(innermost(error))
    except (OSError, requests.exceptions.RequestException) as error:
        cause = innermost(error)
        number = getattr(cause, "errno", None)
        if isinstance(cause, socket.gaierror):
            ended, detail = "refused", cause.strerror
        elif isinstance(cause, ssl.SSLError):  # its errno is OpenSSL's own
            ended, detail = "failed", cause
        elif number in (errno.ECONNRESET, errno.EPIPE):
            ended, detail = "refused", errno.errorcode[number]
        elif number in errno.errorcode:
            ended, detail = "blocked", f"{errno.errorcode[number]}: {cause.strerror}"
        else:
            ended, detail = "failed", repr(cause)
    print(f"{name:<18}{ended:<10}{' '.join(str(detail).split())}", flush=True)


def innermost(error):
    """The error at the bottom: libraries wrap it in arguments, reasons and contexts."""
    while True:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((a for a in error.args if isinstance(a, BaseException)), None)
        if inner is None:
            inner = error.__cause__ or error.__context__
        if inner is None:
            return error
        error = inner


def http(session, method, url, **options):
    answer = session.request(method, url, timeout=TIMEOUT, verify=CA_FILE, **options)
    ended = "answered" if answer.ok else "refused"
    return ended, f"{answer.status_code} {answer.text}"


def lookup(name):
    return "answered", socket.getaddrinfo(name, 443)[0][4][0]


def tcp(address, port):
    with socket.create_connection((address, port), TIMEOUT) as connection:
        connection.sendall(b"secret\n")
        answer = connection.recv(64)
    return ("answered", answer) if answer else ("refused", "closed without a word")


def udp(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"secret", (address, port))
    return "answered", "the datagram went out"


def dns(address, name):
    """Asks a DNS server of the agent's own choice."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = struct.pack("!6H", 0x5EC2, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\x01\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.settimeout(TIMEOUT)
        resolver.sendto(question, (address, 53))
        answer = resolver.recv(512)
    code = answer[3] & 0x0F
    return ("refused" if code else "answered"), f"DNS response code {code}"


def make(kind, protocol):
    socket.socket(socket.AF_INET, kind, protocol).close()
    return "answered", "the socket was made"


main()
