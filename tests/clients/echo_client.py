"""Drives the Echo service through a gateway with grpcio: every shape, cancellation, deadline, trailers, 4 MB messages."""

import sys
import time

import grpc

import echo_pb2
import echo_pb2_grpc

MAX = 16 << 20
BIG = bytes(range(256)) * (4 << 12)  # 4 MiB


def check(condition, what):
    if not condition:
        raise AssertionError(what)
    print("ok", what, flush=True)


def fails(call, code, what):
    try:
        call()
    except grpc.RpcError as error:
        check(error.code() == code, f"{what}: {error.code()} {error.details()!r}")
        return error
    raise AssertionError(f"{what}: no error")


def main(address):
    channel = grpc.insecure_channel(
        address,
        options=[("grpc.max_receive_message_length", MAX), ("grpc.max_send_message_length", MAX)],
    )
    grpc.channel_ready_future(channel).result(timeout=10)
    echo = echo_pb2_grpc.EchoStub(channel)
    request = echo_pb2.EchoRequest

    answer, call = echo.Unary.with_call(
        request(payload=b"hi"), metadata=[("echo-initial", "i"), ("x-bin", b"\x00\xff")], timeout=10
    )
    check(answer.payload == b"hi", "unary")
    check(dict(call.initial_metadata()).get("echo-initial") == "i", "initial metadata")
    trailers = dict(call.trailing_metadata())
    check(trailers.get("echo-trailer") == "t", "trailers")
    check(trailers.get("echo-trailer-bin") == b"\x00\x01\xff", "binary trailers")

    answer = echo.ClientStream((request(payload=b"x" * n) for n in range(1000)), timeout=20)
    check(answer.size == sum(range(1000)), "client stream")
    sizes = [a.size for a in echo.ServerStream(request(payload=b"y" * 1000, count=1000), timeout=20)]
    check(sizes == list(range(1000)), "server stream")
    sizes = [a.size for a in echo.Bidi((request(payload=b"z" * n) for n in range(500)), timeout=20)]
    check(sizes == list(range(500)), "bidi")
    check(list(echo.Bidi(iter(()), timeout=10)) == [], "empty bidi")

    answer = echo.Unary(request(payload=BIG), timeout=20)
    check(answer.payload == BIG, "4 MiB unary")
    total = sum(len(a.payload) for a in echo.Bidi((request(payload=BIG) for _ in range(8)), timeout=60))
    check(total == 8 * len(BIG), "8 × 4 MiB bidi")
    total = sum(len(a.payload) for a in echo.ServerStream(request(payload=BIG, count=8), timeout=60))
    check(total == 8 * len(BIG), "8 × 4 MiB server stream")

    error = fails(
        lambda: echo.Unary(request(code=9, message="nicht so: ü %"), timeout=10),
        grpc.StatusCode.FAILED_PRECONDITION,
        "trailers-only",
    )
    check(error.details() == "nicht so: ü %", "status message")
    check(dict(error.trailing_metadata()).get("echo-trailer") == "t", "trailers of an error")
    fails(
        lambda: list(echo.ServerStream(request(code=5, message="no"), timeout=10)),
        grpc.StatusCode.NOT_FOUND,
        "trailers-only stream",
    )

    begun = time.monotonic()
    fails(
        lambda: echo.Unary(request(wait_seconds=20), timeout=0.3),
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "deadline",
    )
    check(time.monotonic() - begun < 5, "deadline in time")

    call = echo.Unary.future(request(wait_seconds=20))
    time.sleep(0.3)
    call.cancel()
    stream = echo.ServerStream(request(payload=BIG, count=100000))
    next(stream)
    stream.cancel()
    fails(lambda: list(stream), grpc.StatusCode.CANCELLED, "cancelled stream")

    fails(
        lambda: channel.unary_unary("/acme.nothing.v1.Nothing/Do")(b"", timeout=5),
        grpc.StatusCode.UNIMPLEMENTED,
        "unknown service",
    )
    fails(
        lambda: channel.unary_unary("/acme.echo.v1.Echo/Nothing")(b"", timeout=5),
        grpc.StatusCode.UNIMPLEMENTED,
        "unknown method",
    )
    print("all passed", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
