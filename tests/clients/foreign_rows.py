"""Reads and writes rows of the data service in its Cassandra with cassandra-driver, by what docs/data.md says of the layout.

    foreign_rows.py HOST:PORT KEYSPACE read TABLE
    foreign_rows.py HOST:PORT KEYSPACE write TABLE PARTITION_KEY SORT_KEY MICROSECONDS TTL_SECONDS NAME=TEXT...

`read` prints a JSON object for each row. `write` puts one row, with the end that TTL_SECONDS says unless it is 0.
"""

import json
import os
import sys
import time

import xxhash
from cassandra import ConsistencyLevel
from cassandra.cluster import Cluster

import foreign_rows_pb2

FORMAT, FORMAT_WITHOUT_WRITE = 2, 1
RANK_OF_PUTS = 1
# Cassandra clears a row away this much later than the row says.
TTL_SLACK_SECONDS = 2


def checksum(header, payload):
    return xxhash.xxh3_64_intdigest(header + payload).to_bytes(8, "little")


def decode(cell):
    """Returns the attributes and the end of a row, in microseconds since 1970 or 0."""
    # Behind format, and in format 2 rank and id: codec, size, end, checksum.
    at = {FORMAT: 10, FORMAT_WITHOUT_WRITE: 1}[cell[0]]
    codec, payload = cell[at], cell[at + 21 :]
    size = int.from_bytes(cell[at + 1 : at + 5], "little")
    end = int.from_bytes(cell[at + 5 : at + 13], "little", signed=True)
    if codec != 0 or size != len(payload):
        raise ValueError("a cell of another form")
    if checksum(cell[: at + 13], payload) != cell[at + 13 : at + 21]:
        raise ValueError("a damaged cell")
    attributes = foreign_rows_pb2.Attributes.FromString(payload).attributes
    return {name: of_kind(value) for name, value in attributes.items()}, end


def of_kind(value):
    kind = value.WhichOneof("kind")
    value = getattr(value, kind)
    if kind == "bytes_value":
        value = value.hex()
    if kind == "time_value":
        value = value.ToNanoseconds()
    return {kind: value}


def encode(attributes, end):
    message = foreign_rows_pb2.Attributes()
    for name, text in attributes:
        message.attributes[name].string_value = text
    payload = message.SerializeToString(deterministic=True)
    header = bytes([FORMAT, RANK_OF_PUTS]) + os.urandom(8) + bytes([0])
    header += len(payload).to_bytes(4, "little") + end.to_bytes(8, "little", signed=True)
    return header + checksum(header, payload) + payload


def read(session, table, conditional):
    columns = "pk, sk, cell, aux, write_time" if conditional else "pk, sk, cell, WRITETIME(cell) AS write_time"
    now = time.time_ns() // 1000
    for row in session.execute(f"SELECT {columns} FROM t_{table}"):
        if row.cell is None or (conditional and row.aux != b""):
            continue
        attributes, end = decode(row.cell)
        if end == 0 or end > now:
            found = {"partition_key": row.pk, "sort_key": row.sk, "attributes": attributes}
            print(json.dumps({**found, "write_time": row.write_time, "expire_time": end}))


def write(session, table, partition_key, sort_key, micros, ttl, *attributes):
    micros, ttl = int(micros), int(ttl)
    end = micros + ttl * 1_000_000 if ttl else 0
    cell = encode([pair.split("=", 1) for pair in attributes], end)
    insert = f"INSERT INTO t_{table} (pk, sk, cell) VALUES (?, ?, ?) USING TIMESTAMP ?"
    values = [partition_key, sort_key, cell, micros]
    if ttl:
        insert += " AND TTL ?"
        values.append(max(1, (end - time.time_ns() // 1000) // 1_000_000) + TTL_SLACK_SECONDS)
    insert = session.prepare(insert)
    insert.consistency_level = ConsistencyLevel.LOCAL_QUORUM
    session.execute(insert, values)


def main(address, keyspace, verb, table, *arguments):
    host, port = address.rsplit(":", 1)
    cluster = Cluster([host], port=int(port))
    session = cluster.connect(keyspace)
    session.default_consistency_level = ConsistencyLevel.LOCAL_QUORUM
    definition = session.execute(
        "SELECT state, sort_key_type, write_mode, layout, options FROM tables WHERE space = 'shoal' AND name = %s", [table]
    ).one()
    if definition is None or definition.state != "ready" or (definition.layout or 1) > 2:
        raise SystemExit(f"no table {table} of a layout that is known here: {definition}")
    conditional = definition.write_mode == "CONDITIONAL"
    if verb == "read":
        read(session, table, conditional)
    elif conditional or definition.options:
        raise SystemExit("rows of conditional tables and of tables with a change feed are written by the service alone")
    else:
        write(session, table, *arguments)
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
