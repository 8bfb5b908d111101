"""A guest book: notes in SQLite, behind a small JSON API.

Everything it needs to know stands in its environment, and it learns nothing else about the host: where to listen
($HOST, $PORT), where its data may stay ($DATA_DIR), and which release it is.
"""

import os
import platform
import signal
import sqlite3
import sys
import time
from pathlib import Path

from flask import Flask, request
from waitress import serve

DATABASE = Path(os.environ["DATA_DIR"]) / "notes.db"
AUTHOR_CHARS_MAX = 40
TEXT_CHARS_MAX = 280
NOTES_SHOWN = 50

app = Flask(__name__)


def database():
    connection = sqlite3.connect(DATABASE, timeout=5)
    connection.row_factory = sqlite3.Row
    return connection


def prepare():
    """Old and new releases share the file for a moment: WAL lets one write while others read."""
    with database() as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS note"
            " (id INTEGER PRIMARY KEY, author TEXT NOT NULL, text TEXT NOT NULL, at REAL NOT NULL)"
        )
    connection.close()


def query(sql, *values):
    connection = database()
    try:
        with connection:
            return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def identity():
    return {
        "service": os.environ.get("SERVICE_NAME"),
        "release": os.environ.get("AGENTD_RELEASE"),
        "commit": os.environ.get("AGENTD_COMMIT"),
        "instance": os.environ.get("AGENTD_INSTANCE"),
        "runtime": f"Python {platform.python_version()}",
    }


@app.get("/about")
def about():
    (row,) = query("SELECT count(*) AS notes FROM note")
    return {**identity(), "greeting": os.environ.get("GREETING"), "notes": row["notes"]}


@app.get("/notes")
def notes():
    rows = query("SELECT id, author, text, at FROM note ORDER BY id DESC LIMIT ?", NOTES_SHOWN)
    return {"served_by": identity(), "notes": [dict(row) for row in rows]}


@app.post("/notes")
def add():
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        return {"error": "send JSON: {\"author\": ..., \"text\": ...}"}, 400
    author = str(body.get("author") or "").strip()[:AUTHOR_CHARS_MAX] or "somebody"
    text = str(body.get("text") or "").strip()[:TEXT_CHARS_MAX]
    if not text:
        return {"error": "a note needs some text"}, 400
    at = time.time()
    connection = database()
    try:
        with connection:
            cursor = connection.execute("INSERT INTO note (author, text, at) VALUES (?, ?, ?)", (author, text, at))
    finally:
        connection.close()
    return {"id": cursor.lastrowid, "author": author, "text": text, "at": at}, 201


@app.get("/healthz")
def healthz():
    query("SELECT 1")
    return "ok\n"


if __name__ == "__main__":
    prepare()
    # Raised in the main loop, where waitress finishes what it has begun.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"notes: listening on port {os.environ['PORT']}, data in {DATABASE}", flush=True)
    serve(app, host=os.environ["HOST"], port=int(os.environ["PORT"]), threads=4, ident=None)
