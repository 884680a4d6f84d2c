"""The proxies that are compared, and their configurations."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from machine import Machine, Process, wait_until_serving

# Tuned for small requests. worker_connections is above what descriptors allow, which costs nothing per connection: once
# 15/16 of them are taken, nginx closes clients that have not sent yet, and 9,500 polls take 19,000. Checks of its
# upstreams are passive: this nginx has no others.
NGINX = """
daemon off; worker_processes {threads}; worker_rlimit_nofile 20000; pid {home}/pid; error_log {home}/error.log crit;
events {{ worker_connections 40000; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 3600s; keepalive_requests 1000000000; client_max_body_size 0;
  client_body_temp_path {home}/t; proxy_temp_path {home}/t; fastcgi_temp_path {home}/t; uwsgi_temp_path {home}/t;
  scgi_temp_path {home}/t;
  upstream u {{
    server 127.0.0.1:{up[0]} max_fails=1 fail_timeout=5s; server 127.0.0.1:{up[1]} max_fails=1 fail_timeout=5s;
    keepalive 256; keepalive_requests 1000000000; keepalive_timeout 60s;
  }}
  server {{
    listen 127.0.0.1:{port} {tls} reuseport backlog=4096; {certificate}
    {h2}
    location / {{
      proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_max_temp_file_size 0;
      proxy_connect_timeout 1s; proxy_read_timeout 3600s;
      proxy_next_upstream error timeout; proxy_next_upstream_tries 3;
      {extra}
    }}
  }}
}}
"""
# What ours always does: the client's Host, forwarding headers, a request id both ways, no identity from outside.
NGINX_HEADERS = """
      proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Request-Id $request_id; add_header X-Request-Id $request_id always;
      proxy_set_header Forwarded ""; proxy_set_header Ssl-Client-Verify ""; proxy_set_header Ssl-Client-Cert "";
"""

HAPROXY = """
global
  nbthread {threads}
  maxconn 9900
  no strict-limits
defaults
  mode http
  timeout connect 1s
  timeout client 3600s
  timeout server 3600s
  timeout http-keep-alive 3600s
  http-reuse always
  option redispatch 1
  retries 3
  {retry}
frontend f
  bind 127.0.0.1:{port} backlog 4096 {tls}
  {h2}
  {extra}
  default_backend b
backend b
  balance roundrobin
  option httpchk GET /healthz
  http-check send hdr Host bench
  default-server check inter 2s fall 2 rise 1
  server s1 127.0.0.1:{up[0]}
  server s2 127.0.0.1:{up[1]}
"""
HAPROXY_HEADERS = """
  unique-id-format %[uuid()]
  unique-id-header X-Request-ID
  http-request del-header X-Forwarded- -m beg
  http-request del-header Ssl-Client- -m beg
  http-request del-header Forwarded
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-response set-header X-Request-ID %[unique-id]
"""
# Repeats whatever got no answer, a POST too: it may run twice.
HAPROXY_RETRY = "retry-on conn-failure empty-response response-timeout"

# What every config of ours begins with.
OURS_ALWAYS = """\
[proxy]
threads = {threads}
[shutdown]
grace = "1s"
[log]
access = "off"
filter = "warn"
[admin]
listen = "127.0.0.1:0"
"""

# As in real life: checks, metrics, forwarding headers and header rules are on without being asked for.
OURS = OURS_ALWAYS + """\
[[listener]]
name = "controllers"
bind = ["127.0.0.1:{port}"]
service = "controllers"
{tls}
{h2}
[service.controllers]
kind = "controller"
balance = "round-robin"
upstreams = [
  {{ name = "u1", address = "127.0.0.1:{up[0]}" }},
  {{ name = "u2", address = "127.0.0.1:{up[1]}" }},
]
[service.controllers.health]
path = "{health}"
"""

# A second port for HTTP/2 by prior knowledge, each in its own words.
NGINX_H2 = "listen 127.0.0.1:{h2_port} http2 reuseport backlog=4096; http2_max_concurrent_streams 128;"
HAPROXY_H2 = "bind 127.0.0.1:{h2_port} proto h2 backlog 4096"
OURS_H2 = """
[[listener]]
name = "h2"
bind = ["127.0.0.1:{h2_port}"]
service = "controllers"
http2 = true
"""


# TLS 1.2 and 1.3, nothing else said: each takes the suites that it prefers. nginx says it with the certificate, haproxy
# wants it and its key in one file.
NGINX_TLS = "ssl"
NGINX_CERTIFICATE = "ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;"
HAPROXY_TLS = "ssl crt {both} ssl-min-ver TLSv1.2"
OURS_TLS = 'tls = {{ cert = "{cert}", key = "{key}" }}'


def certificate(machine: Machine) -> dict[str, Path]:
    """A certificate for TLS with ECDSA P-256, signed by itself; made once."""
    files = {name: machine.scratch / f"{name}.pem" for name in ("cert", "key", "both")}
    if not files["both"].exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                   "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", files["key"], "-out",
                   files["cert"]]
        subprocess.run(command, check=True, capture_output=True)
        files["both"].write_text(files["cert"].read_text() + files["key"].read_text())
    return files


def secured(kind: str, machine: Machine) -> dict[str, str]:
    """What the configuration of one of this kind says of TLS."""
    how = {"nginx": NGINX_TLS, "haproxy": HAPROXY_TLS}.get(kind, OURS_TLS)
    files = certificate(machine)
    return {"tls": how.format(**files), "certificate": NGINX_CERTIFICATE.format(**files)}


@dataclass(frozen=True)
class Contender:
    """A proxy that can be started. `binary` is given for builds of ours, for the others `kind` says what it is."""

    name: str
    kind: str
    binary: Path | None = None
    headers: bool = False
    retry: bool = False

    def launch(self, machine: Machine, up: tuple[int, int], threads: int,
               health: str = "/healthz", *, tls: bool = False, h2: bool = False) -> tuple[Process, int]:
        """Starts it before these two upstreams; returns when it answers, with its port, or its port for HTTP/2."""
        (port, home), h2_port = self.place(machine), machine.free_port()
        values = {"threads": threads, "port": port, "up": up, "home": home, "health": health, "extra": "", "retry": "",
                  "tls": "", "certificate": "", "h2": ""}
        if tls:
            values |= secured(self.kind, machine)
        text = {"nginx": NGINX, "haproxy": HAPROXY}.get(self.kind, OURS)
        if self.headers:
            values["extra"] = {"nginx": NGINX_HEADERS, "haproxy": HAPROXY_HEADERS}[self.kind]
        if self.retry:
            values["retry"] = HAPROXY_RETRY
        if h2:
            words = {"nginx": NGINX_H2, "haproxy": HAPROXY_H2}.get(self.kind, OURS_H2)
            values["h2"] = words.format(h2_port=h2_port)
        process = self.run(machine, port, home, text.format(**values), tls=tls)
        return process, h2_port if h2 else port

    def place(self, machine: Machine) -> tuple[int, Path]:
        """A port, and a directory of its own."""
        port = machine.free_port()
        home = machine.scratch / f"{self.name}-{port}"
        home.mkdir()
        return port, home

    def run(self, machine: Machine, port: int, home: Path, text: str, *, tls: bool = False) -> Process:
        """Starts it with this configuration; returns when it answers."""
        config = home / "config"
        config.write_text(text)
        command: list[str | Path]
        if self.kind == "nginx":
            command = ["nginx", "-p", home, "-e", home / "error.log", "-c", config]
        elif self.kind == "haproxy":
            command = ["haproxy", "-db", "-f", config]
        else:
            assert self.binary is not None
            command = [self.binary, "proxy", "-c", config]
        process = machine.start(f"{self.name}-{port}", command, machine.proxy_cpus)
        wait_until_serving(process, port, "/healthz", tls=tls)
        return process


PEERS = {
    "nginx": Contender("nginx", "nginx"),
    "haproxy": Contender("haproxy", "haproxy"),
    "nginx-headers": Contender("nginx-headers", "nginx", headers=True),
    "haproxy-headers": Contender("haproxy-headers", "haproxy", headers=True),
    "haproxy-retry": Contender("haproxy-retry", "haproxy", retry=True),
}
# The ones that figures are judged by, unless none of them takes part: they do less, so the goal is harder.
JUDGES = ("nginx", "haproxy")
