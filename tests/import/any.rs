//! Whatever is put in: nothing panics, nothing is left out of the report, and nothing is said twice.

use std::collections::BTreeSet;

use proptest::prelude::*;
use switchyard::{
    config,
    import::{self, ImportError, Report, nginx},
};

/// Words of nginx, so that more than refusals is tried.
const NGINX: &[&str] = &[
    "http {",
    "stream {",
    "server {",
    "upstream u {",
    "location / {",
    "location ~ ^/(a|b)/ {",
    "location = /x {",
    "}",
    "}",
    "}",
    "listen 80;",
    "listen 443 ssl;",
    "listen 80 default_server;",
    "listen [::]:80;",
    "server 10.0.0.1:80;",
    "server c1.lan backup weight=2;",
    "server_name a.example *.b _;",
    "proxy_pass http://u;",
    "proxy_pass https://10.0.0.2;",
    "proxy_pass http://$x:80$request_uri;",
    "set $x c2.lan;",
    "allow 10.0.0.0/8;",
    "deny 10.1.0.0/16;",
    "deny all;",
    "allow all;",
    "ip_hash;",
    "hash $uri consistent;",
    "map $a $b { default 1; }",
    "if ($scheme = http) { return 301 x; }",
    "return 403;",
    "include x;",
    "ssl_certificate a.pem;",
    "ssl_certificate_key a.key;",
    "limit_req zone=z burst=3;",
    "limit_req_zone $remote_addr zone=z:1m rate=1r/s;",
    "proxy_read_timeout 3y;",
    "proxy_connect_timeout 0;",
    "proxy_next_upstream http_502 http_404;",
    "set_real_ip_from 10.0.0.1;",
    "real_ip_header proxy_protocol;",
    "listen 81 proxy_protocol;",
    "keepalive_timeout 0;",
    "large_client_header_buffers 4 8m;",
    "client_max_body_size 1m;",
    "worker_processes 3;",
    "health_check uri=/x match=m interval=0;",
    "sticky cookie a;",
    "proxy_next_upstream_tries 99;",
    "max_fails=0;",
    "server 10.0.0.3 max_fails=0 fail_timeout=9h slow_start=9h max_conns=9999999;",
    "random two;",
    "zone a 1m;",
    "listen 9090;",
    "hash $http_cookie;",
    "limit_conn_zone $server_name zone=c:1m;",
    "limit_conn c 5;",
    "\n",
];

const HAPROXY: &[&str] = &[
    "global\n",
    "defaults\n",
    "frontend f\n",
    "backend b\n",
    "listen l\n",
    "resolvers r\n",
    " bind *:80\n",
    " bind :90,:91\n",
    " bind *:443 ssl crt a.pem\n",
    " bind *:80 accept-proxy alpn h2\n",
    " server s 10.0.0.1:80 check\n",
    " server s c1.lan:80 ssl verify none sni str(a.b) backup\n",
    " server t 10.0.0.2 weight 999999 maxconn 0 inter 9h\n",
    " server-template t 9 a.example:80 resolvers r\n",
    " server-template t 1-9 _a._tcp.b\n",
    " default_backend b\n",
    " use_backend b if a\n",
    " use_backend b if { path_beg /x } or { hdr(host) a.example }\n",
    " acl a path_beg /y\n",
    " acl a src 10.0.0.0/8\n",
    " acl a ssl_fc\n",
    " http-request deny if a\n",
    " http-request deny if !a\n",
    " http-request redirect scheme https unless a\n",
    " redirect scheme https if !{ ssl_fc }\n",
    " balance source\n",
    " balance uri\n",
    " balance hdr(x)\n",
    " balance\n",
    " cookie c insert\n",
    " stick on src\n",
    " stick-table type ip store http_req_rate(10s)\n",
    " http-request deny if { sc_http_req_rate(0) gt 5 }\n",
    " timeout client 0\n",
    " timeout connect 9d\n",
    " timeout check 1h\n",
    " option httpchk HEAD /x\n",
    " http-check expect status 200-299\n",
    " http-check expect string ok\n",
    " http-check send hdr a b\n",
    " option tcp-check\n",
    " mode tcp\n",
    " maxconn 5\n",
    " retries 99\n",
    " retry-on all-retryable-errors\n",
    " default-server send-proxy check rise 0\n",
    " nameserver a 10.0.0.2:53\n",
    " nbthread 2\n",
    " stats enable\n",
    " maxconn 0\n",
    " tcp-request connection reject if { sc_conn_cur(0) ge 50 }\n",
    " compression algo gzip\n",
    " nonsense 'a b'\n",
];

/// The certificates that they name are not there, and that is said; any other fault is ours.
fn is_config(config: &str) {
    if let Err(faults) = config::check_proxy("proxy.toml".as_ref(), config) {
        let drawn = faults.draw(false);
        let errors = drawn.lines().filter(|line| line.starts_with("error"));
        let ours: Vec<&str> =
            errors.filter(|line| !line.contains(".pem") && !line.contains(".key")).collect();
        assert!(ours.is_empty(), "{drawn}\n{config}");
    }
}

/// How many things are told of, each of them once.
fn once(report: &Report) -> usize {
    let all: Vec<_> = report.notes().collect();
    let places: BTreeSet<String> = all.iter().map(|note| format!("{:?}", note.at)).collect();
    assert_eq!(places.len(), all.len());
    all.len()
}

fn report(result: Result<import::Imported, ImportError>) -> Option<Report> {
    match result {
        Ok(imported) => {
            is_config(&imported.config);
            Some(imported.report)
        }
        Err(ImportError::Nothing { report, .. }) => Some(*report),
        Err(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_soup_of_nginx_is_answered_for(picks in proptest::collection::vec(0..NGINX.len(), 1..60)) {
        let mut text = String::from("http { upstream u { server 10.0.0.9:80; } server { listen 70; ");
        let (mut depth, mut directives) = (2, 5);
        for pick in picks {
            let word = NGINX[pick];
            let opens = word.matches('{').count();
            let closes = word.matches('}').count();
            if closes > depth + opens || depth + opens > 20 {
                continue;
            }
            depth = depth + opens - closes;
            directives += word.matches([';', '{']).count();
            text.push_str(word);
            text.push('\n');
        }
        text.push_str(&"}".repeat(depth));
        // `http`, `upstream`, `server`, its address, `listen`.
        if let Some(report) = report(nginx::import("x.conf", &text, &|_| Err("not there".into()))) {
            prop_assert_eq!(once(&report), directives, "{}", text);
        }
    }

    #[test]
    fn any_soup_of_haproxy_is_answered_for(picks in proptest::collection::vec(0..HAPROXY.len(), 1..60)) {
        let mut text = String::from("frontend f0\n bind *:70\n default_backend b0\nbackend b0\n server s0 10.0.0.9:80\n");
        for pick in picks {
            text.push_str(HAPROXY[pick]);
        }
        let lines = text.lines().count();
        if let Some(report) = report(import::haproxy::import("x.cfg", &text, &|_| Err("not there".into()), &|_| None)) {
            prop_assert_eq!(once(&report), lines, "{}", text);
        }
    }

    #[test]
    fn no_text_makes_either_panic(text in "(server|listen|http|[a-z0-9 ;{}'\"\\\\$#:*/.\n]){0,120}") {
        drop(nginx::import("x", &text, &|_| Ok(Vec::new())));
        drop(import::haproxy::import("x", &text, &|_| Ok(Vec::new()), &|_| None));
    }
}

#[test]
fn what_is_too_large_or_deep_is_refused() {
    let many = "a;".repeat(50_001);
    assert_eq!(nginx::import("x", &many, &|_| Ok(Vec::new())), Err(ImportError::Large));
    let lines = "global\n".repeat(50_001);
    assert_eq!(import::haproxy::import("x", &lines, &|_| Ok(Vec::new()), &|_| None), Err(ImportError::Large));
    let deep = "a {".repeat(33);
    assert!(matches!(nginx::import("x", &deep, &|_| Ok(Vec::new())), Err(ImportError::Syntax { .. })));
    let large = "# a comment\n".repeat(1_000_000);
    let all = nginx::import("x", "include a; include b;", &|name| Ok(vec![(name.to_owned(), large.clone())]));
    assert_eq!(all, Err(ImportError::Large));
}

#[test]
fn of_two_blocks_at_one_address_the_second_is_left_out_and_that_is_said() {
    let block = "http { upstream u { server 10.0.0.9:80; } server { listen 80; proxy_pass http://u; } }\n";
    for text in [block.repeat(2), format!("{block}{}", block.replacen("http", "stream", 1))] {
        let imported = nginx::import("x.conf", &text, &|_| Err("not there".into())).unwrap();
        is_config(&imported.config);
        assert_eq!(imported.config.matches("0.0.0.0:80").count(), 1, "{}", imported.config);
        let said: Vec<String> = imported.report.notes().map(|note| format!("{note:?}")).collect();
        assert!(
            said.iter().any(|note| note.contains("an earlier `http` or `stream` listens there")),
            "{said:?}"
        );
    }
}
