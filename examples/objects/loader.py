"""Loads four kinds of objects for the cache: the owner of objects answers shoal.cache.v1.ObjectLoaderService, in any language.

    python3 loader.py GATEWAY [PORT]

Reads rows and sessions through the gateway, and prints the port that it listens on and each call that it gets: the cache makes
one for the objects that it misses together. Values are JSON; the cache does not look into them.
"""

import html
import json
import sys
from concurrent import futures

import grpc

from shoal.cache.v1 import cache_pb2 as cache, cache_pb2_grpc
from shoal.data.v1 import data_pb2 as data, data_pb2_grpc
from shoal.session.v1 import session_pb2 as session, session_pb2_grpc


class BadId(Exception):
    """An id that names no object of its kind, and what it should be."""


def plain(row):
    """Returns the attributes of a row as Python values."""
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in row.attributes.items()}


def found(value, tags, version=""):
    text = json.dumps(value, sort_keys=True).encode()
    return cache.LoadResult(object=cache.LoadedObject(value=text, tags=tags, version=version))


def missing(tags):
    """The tags let whoever makes the object invalidate the knowledge that there is none."""
    return cache.LoadResult(not_found=cache.LoadResult.NotFound(tags=tags))


class Objects:
    """Assembles objects from rows and sessions. Each kind is a method: ids, and what the cache has of them, to results."""

    def __init__(self, channel):
        self.data = data_pb2_grpc.DataServiceStub(channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)

    def rows(self, table, keys):
        """Reads the rows of some partitions, all in one call. Returns those that are there, by key."""
        keys, rows = sorted(set(keys)), {}
        while keys:
            wanted = [data.RowKey(partition_key=key) for key in keys]
            results = self.data.BatchGet(data.BatchGetRequest(table=table, keys=wanted), timeout=1).results
            # Large rows come in several answers.
            for key, result in zip(keys, results):
                if result.HasField("row"):
                    rows[key] = result.row
            keys = keys[len(results) :]
        return rows

    def session_view(self, ids, previous):
        """A user with the live sessions. The id is the user's: a token is a secret, and no key of a cache."""
        users = self.rows("users", ids)
        for user in ids:
            tags = [f"users/{user}", f"sessions/{user}"]
            if user not in users:
                yield missing(tags)
                continue
            live = self.sessions.ListSessions(session.ListSessionsRequest(user_id=user), timeout=1).sessions
            devices = sorted(one.metadata.get("device", "unknown") for one in live)
            yield found({"name": plain(users[user])["name"], "devices": devices}, tags)

    def article(self, ids, previous):
        """An article, rendered with the name of its author: one object of two tables, with a tag for each row."""
        articles = self.rows("articles", ids)
        authors = self.rows("users", [plain(article)["author"] for article in articles.values()])
        for id in ids:
            if id not in articles:
                yield missing([f"articles/{id}"])
                continue
            article = plain(articles[id])
            author = authors.get(article["author"])
            tags = [f"articles/{id}", f"users/{article['author']}"]
            stamps = [row.write_time.ToNanoseconds() for row in (articles[id], author) if row]
            version = ".".join(map(str, stamps))
            if id in previous and previous[id].version == version:
                yield cache.LoadResult(not_modified=cache.LoadResult.NotModified())
                continue
            name = plain(author)["name"] if author else "somebody"
            title, by, text = (html.escape(part) for part in (article["title"], name, article["text"]))
            yield found({"html": f"<h1>{title}</h1><p>by {by}</p><p>{text}</p>"}, tags, version)

    def activity(self, ids, previous):
        """The ten latest activities of a user, the newest first. A user without any has an empty stream."""
        for user in ids:
            request = data.QueryRequest(table="activities", partition_key=user, descending=True, page_size=10)
            rows = self.data.Query(request, timeout=1).rows
            yield found([plain(row)["text"] for row in rows], [f"activities/{user}"])

    def friendship(self, ids, previous):
        """What two users are to each other. The id is both, in the order of the alphabet, as `ada~grace`."""
        pairs = {id: tuple(id.split("~")) for id in ids}
        well = {id: pair for id, pair in pairs.items() if len(pair) == 2 and pair[0] < pair[1]}
        both = [key for one, two in well.values() for key in (f"{one}>{two}", f"{two}>{one}")]
        asked = self.rows("friends", both)
        for id in ids:
            if id not in well:
                yield BadId(f"`{id}` must be two users in the order of the alphabet, as ada~grace")
                continue
            one, two = well[id]
            ways = [way for way in (f"{one}>{two}", f"{two}>{one}") if way in asked]
            tags = [f"friends/{one}>{two}", f"friends/{two}>{one}"]
            if not ways:
                yield missing(tags)
            else:
                state = "friends" if len(ways) == 2 else f"asked by {ways[0].split('>')[0]}"
                yield found({"state": state}, tags)


class Loader(cache_pb2_grpc.ObjectLoaderServiceServicer):
    KINDS = ("session_view", "article", "activity", "friendship")

    def __init__(self, objects):
        self.objects = objects

    def Load(self, request, context):
        print(f"load {request.kind} {' '.join(request.ids)}", flush=True)
        if request.kind not in self.KINDS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no kind {request.kind}; there are {', '.join(self.KINDS)}")
        previous = {one.id: one for one in request.previous}
        try:
            results = list(getattr(self.objects, request.kind)(request.ids, previous))
        except grpc.RpcError as error:
            # The code of what failed behind the loader is what its caller should see.
            context.abort(error.code(), error.details())
        return cache.LoadResponse(results=[self.result(result) for result in results])

    @staticmethod
    def result(result):
        if isinstance(result, BadId):
            code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            return cache.LoadResult(failure=cache.LoadResult.LoadFailure(code=code, message=str(result)))
        return result


def main():
    gateway, port = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "9100"
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    cache_pb2_grpc.add_ObjectLoaderServiceServicer_to_server(Loader(Objects(grpc.insecure_channel(gateway))), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"listening on 127.0.0.1:{bound}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
