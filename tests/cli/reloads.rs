//! What `docs/configuration.md` says of a reload, tried key by key at a proxy that runs.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use toml::Table;

use crate::{
    program::switchyard,
    reference::{ADMIN_TOKEN, Files, merge, rows},
};

/// A proxy that is killed when the test ends, however that ends.
struct Running {
    child: Child,
    config: PathBuf,
    admin: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What has to stay while others change.
fn fixed(files: &Files) -> Table {
    let dir = files.folder.path().display();
    let text = format!(
        "admin = {{ listen = '127.0.0.1:0' }}\nlog = {{ access = 'off' }}\n\
         proxy = {{ run_dir = '{dir}/fixed', address_file = '{dir}/admin', threads = 2 }}\n"
    );
    text.parse().unwrap()
}

/// The fixed part goes behind what the file says of other keys, and before what it does not say.
fn with_fixed(files: &Files, file: Table) -> String {
    let mut whole = fixed(files);
    merge(&mut whole, file);
    whole.to_string()
}

impl Running {
    fn start(files: &Files, text: &str) -> Self {
        let config = files.folder.path().join("proxy.toml");
        fs::write(&config, text).unwrap();
        let mut command = switchyard();
        command.args(["proxy", "-c"]).arg(&config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let mut running = Self { child, config, admin: String::new() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while running.admin.is_empty() {
            assert!(Instant::now() < deadline, "the proxy did not start");
            std::thread::sleep(Duration::from_millis(5));
            let address = fs::read_to_string(files.folder.path().join("admin")).unwrap_or_default();
            running.admin = address.trim().to_owned();
        }
        running
    }

    /// What a reload with this file is answered.
    fn reload(&self, text: &str) -> String {
        fs::write(&self.config, text).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut stream = loop {
            match TcpStream::connect(&self.admin) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // One of the keys has it asked for.
        let request =
            format!("POST /admin/v1/reload HTTP/1.0\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn a_reload_takes_what_the_page_says_and_refuses_the_rest_by_name() {
    let files = Files::new();
    let base = with_fixed(&files, files.around("proxy", ""));
    let proxy = Running::start(&files, &base);
    let mut wrong = Vec::new();
    let mut taken = 0;
    for row in rows().iter().filter(|row| row.role == "proxy") {
        let Some(file) = files.changed("proxy", &row.path) else { continue };
        let answer = proxy.reload(&with_fixed(&files, file));
        let refused = format!("`{}` cannot be changed by a reload", row.path);
        let right = match row.reload.as_deref() {
            Some("yes") => answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"),
            Some("upgrade") => answer.contains(" 422 ") && answer.contains(&refused),
            _ => false,
        };
        taken += usize::from(right);
        if !right {
            wrong.push(format!("`{}`, {:?}: {answer}", row.path, row.reload));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(taken > 100, "only {taken} keys were tried");
}
