use super::*;

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn finds(text: &str, key_lines: &[&str], meaning: &str) {
    let lines = lines(text);
    let evidence = Evidence { lines: &lines, exit: Some(Exit::Code(1)), ..Evidence::default() };
    let found = diagnose(&evidence);
    assert_eq!(found.key_lines, key_lines, "{text}");
    let told = found.meaning.unwrap_or_default();
    assert!(if meaning.is_empty() { told.is_empty() } else { told.contains(meaning) }, "`{meaning}` in `{told}`");
}

#[test]
fn python_tracebacks() {
    finds(
        "starting\nTraceback (most recent call last):\n  File \"/r/app.py\", line 3, in <module>\n    import flask\n\
         ModuleNotFoundError: No module named 'flask'",
        &["File \"/r/app.py\", line 3, in <module>", "import flask", "ModuleNotFoundError: No module named 'flask'"],
        "module `flask` is not installed",
    );
    finds(
        "Traceback (most recent call last):\n  File \"/r/app.py\", line 9, in <module>\n    main()\n\
         \x20 File \"/r/app.py\", line 5, in main\n    key = os.environ[\"API_KEY\"]\n          ~~~~~~~~~~^^^^^^^^^\n\
         \x20 File \"<frozen os>\", line 714, in __getitem__\nKeyError: 'API_KEY'",
        &["File \"/r/app.py\", line 5, in main", "key = os.environ[\"API_KEY\"]", "KeyError: 'API_KEY'"],
        "wants the variable API_KEY",
    );
    finds(
        "Traceback (most recent call last):\n  File \"/r/app.py\", line 2, in <module>\n    serve()\n\
         \x20 File \"/usr/lib/python3.13/socketserver.py\", line 478, in server_bind\n    self.socket.bind(x)\n\
         OSError: [Errno 98] Address already in use\nnoise after",
        &["File \"/r/app.py\", line 2, in <module>", "serve()", "OSError: [Errno 98] Address already in use"],
        "port it wants is taken",
    );
    finds(
        "Traceback (most recent call last):\n  File \"a\", line 1, in f\nValueError: x\n\nDuring handling of the above:\n\n\
         Traceback (most recent call last):\n  File \"/r/b.py\", line 2, in g\n    boom()\nKeyError: 'lower'\n",
        &["File \"/r/b.py\", line 2, in g", "boom()", "KeyError: 'lower'"],
        "",
    );
    finds(
        "  File \"/r/app.py\", line 3\n    def (:\n        ^\nSyntaxError: invalid syntax",
        &["File \"/r/app.py\", line 3", "def (:", "SyntaxError: invalid syntax"],
        "does not parse",
    );
}

#[test]
fn node_errors() {
    finds(
        "node:internal/modules/cjs/loader:1228\n  throw err;\n  ^\n\nError: Cannot find module 'express'\nRequire stack:\n\
         - /r/server.js\n    at Module._resolveFilename (node:internal/modules/cjs/loader:1225:15)\n\
         \x20   at Object.<anonymous> (/r/server.js:1:17)\n\nNode.js v20.19.2",
        &["Error: Cannot find module 'express'", "at Object.<anonymous> (/r/server.js:1:17)"],
        "Node module `express` is not installed",
    );
    finds(
        "Error: Cannot find module '/r/dist/main.js'\n    at node:internal/main/run_main_module:28:49",
        &["Error: Cannot find module '/r/dist/main.js'"],
        "the file `/r/dist/main.js` is not in the release",
    );
    finds(
        "Error: listen EADDRINUSE: address already in use 127.0.0.1:3000\n    at Server.setupListenHandle (node:net:1908:16)\n\
         \x20   at Object.<anonymous> (/r/server.js:7:8) {\n  code: 'EADDRINUSE',\n  port: 3000\n}",
        &[
            "Error: listen EADDRINUSE: address already in use 127.0.0.1:3000",
            "at Object.<anonymous> (/r/server.js:7:8) {",
        ],
        "port it wants (3000) is taken",
    );
    finds(
        "/r/server.js:3\nconst x = ;\n          ^\n\nSyntaxError: Unexpected token ';'\n    at wrapSafe (node:internal:1:2)\n",
        &["SyntaxError: Unexpected token ';'", "/r/server.js:3"],
        "does not parse",
    );
}

#[test]
fn go_rust_and_java() {
    finds(
        "panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation]\n\n\
         goroutine 1 [running]:\nruntime.gopanic()\n\t/usr/local/go/src/runtime/panic.go:770 +0x132\nmain.main()\n\
         \t/r/main.go:12 +0x18\nexit status 2",
        &["panic: runtime error: invalid memory address or nil pointer dereference", "/r/main.go:12 +0x18"],
        "",
    );
    finds(
        "thread 'main' panicked at src/main.rs:4:37:\ncalled `Result::unwrap()` on an `Err` value: NotPresent\nnote: run with x",
        &["thread 'main' panicked at src/main.rs:4:37:", "called `Result::unwrap()` on an `Err` value: NotPresent"],
        "",
    );
    finds(
        "Exception in thread \"main\" java.lang.IllegalStateException: no store\n\tat org.springframework.Run.go(Run.java:1)\n\
         \tat shop.Main.main(Main.java:9)\nCaused by: java.net.BindException: Address already in use\n\
         \tat java.base/sun.nio.ch.Net.bind(Net.java:555)\n\tat shop.Store.open(Store.java:31)\n\t... 1 more",
        &[
            "Exception in thread \"main\" java.lang.IllegalStateException: no store",
            "Caused by: java.net.BindException: Address already in use",
            "at shop.Store.open(Store.java:31)",
        ],
        "is taken",
    );
}

#[test]
fn shells_clients_and_guesses() {
    let line = "/bin/sh: 1: exec: gunicorn: not found";
    finds(line, &[line], "no program `gunicorn`");
    let line = "bash: line 1: npx: command not found";
    finds(line, &[line], "no program `npx`");
    let line = "/bin/sh: 1: ./start.sh: Permission denied";
    finds(line, &[line], "owner and mode");
    let line = "npm error Missing script: \"start\"";
    finds(line, &[line], "no such script");
    let line = "ERROR: Could not find a version that satisfies the requirement x";
    finds(&format!("{line}\nbye"), &[line], "");
    finds("fine\nERROR one\nfine\nit Failed\nfatal: three\nbye", &["it Failed", "fatal: three"], "");
    finds("all is well\n", &[], "");
}

#[test]
fn exits_and_answers_mean_something_without_a_line() {
    let meaning = |exit, warnings: &[String], outcome: Option<ProbeOutcome>| {
        let probe = outcome.map(|outcome| Probe { at_unix_ms: 0, latency_ms: 1, outcome });
        diagnose(&Evidence { lines: &[], exit, warnings, last_probe: probe.as_ref() }).meaning.unwrap_or_default()
    };
    let signal = |number| Some(Exit::Signal { number, core: false });
    for (exit, words) in [
        (Some(Exit::Code(0)), "foreground"),
        (Some(Exit::Code(127)), "not found"),
        (signal(9), "came from outside"),
        (signal(11), "native code"),
        (signal(15), ""),
        (Some(Exit::Code(3)), ""),
    ] {
        let told = meaning(exit, &[], None);
        assert!(told.contains(words) && told.is_empty() == words.is_empty(), "{exit:?}: {told}");
    }
    let elsewhere = ["run.other-port: listens on 3000, expected $PORT=20001".to_owned()];
    let told = meaning(None, &elsewhere, Some(ProbeOutcome::Refused));
    assert!(told.contains("port 3000 and not on 20001") && told.contains("`port = 3000`"), "{told}");
    assert!(meaning(None, &[], Some(ProbeOutcome::Refused)).contains("listens nowhere"));
    assert!(meaning(None, &[], Some(ProbeOutcome::Status { status: 404 })).contains("health.path"));
    assert!(meaning(None, &[], Some(ProbeOutcome::Status { status: 503 })).contains("its log"));
    assert_eq!(meaning(None, &[], None), "");
}
