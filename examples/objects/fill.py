"""Makes the tables, rows and sessions that loader.py assembles objects from.

    python3 fill.py GATEWAY
"""

import sys

import grpc

from shoal.data.v1 import data_pb2 as data, data_pb2_grpc
from shoal.session.v1 import session_pb2 as session, session_pb2_grpc
from shoal.type.v1 import value_pb2 as value

TABLES = {
    "users": data.SORT_KEY_TYPE_NONE,
    "articles": data.SORT_KEY_TYPE_NONE,
    "activities": data.SORT_KEY_TYPE_INT64,
    "friends": data.SORT_KEY_TYPE_NONE,
}

USERS = {"ada": "Ada", "grace": "Grace", "alan": "Alan"}
ARTICLES = {
    "engine": {"author": "ada", "title": "The Analytical Engine", "text": "It weaves algebra."},
    "compiler": {"author": "grace", "title": "A Compiler", "text": "A < B, and nobody believed it."},
}
ACTIVITIES = {"ada": ["ada joined", "ada wrote `The Analytical Engine`", "ada and grace are friends"]}
FRIENDS = ["ada>grace", "grace>ada", "alan>ada"]
DEVICES = {"ada": ["laptop", "phone"]}


def put(rows, table, key, attributes, sort_key=None):
    typed = {name: value.Value(string_value=text) for name, text in attributes.items()}
    mutation = data.Mutation(put=data.Mutation.Put(attributes=typed))
    if sort_key is not None:
        mutation.put.sort_key.int_value = sort_key
    rows.Mutate(data.MutateRequest(table=table, partition_key=key, mutations=[mutation]), timeout=5)


def main():
    channel = grpc.insecure_channel(sys.argv[1])
    rows, sessions = data_pb2_grpc.DataServiceStub(channel), session_pb2_grpc.SessionServiceStub(channel)
    for name, sort_key_type in TABLES.items():
        try:
            table = data.Table(name=name, sort_key_type=sort_key_type)
            rows.CreateTable(data.CreateTableRequest(table=table), timeout=20)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
    for user, name in USERS.items():
        put(rows, "users", user, {"name": name})
    for id, article in ARTICLES.items():
        put(rows, "articles", id, article)
    for user, texts in ACTIVITIES.items():
        for at, text in enumerate(texts):
            put(rows, "activities", user, {"text": text}, at)
    for way in FRIENDS:
        put(rows, "friends", way, {})
    for user, devices in DEVICES.items():
        for device in devices:
            request = session.CreateSessionRequest(user_id=user, metadata={"device": device}, request_id=device)
            sessions.CreateSession(request, timeout=5)
    print(f"{len(USERS)} users, {len(ARTICLES)} articles")


if __name__ == "__main__":
    main()
