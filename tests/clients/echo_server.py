"""A foreign gRPC service in Python, with reflection. Prints its port, then what happened to callers who left."""

import sys
import threading
from concurrent import futures

import grpc
from grpc_reflection.v1alpha import reflection

import echo_pb2
import echo_pb2_grpc

MAX = 16 << 20


def say(text):
    print(text, flush=True)


class Echo(echo_pb2_grpc.EchoServicer):
    def _begin(self, request, context):
        context.set_trailing_metadata(
            [("echo-trailer", "t"), ("echo-trailer-bin", b"\x00\x01\xff")]
        )
        metadata = dict(context.invocation_metadata())
        if "echo-initial" in metadata:
            context.send_initial_metadata([("echo-initial", metadata["echo-initial"])])
        if request.code:
            for code in grpc.StatusCode:
                if code.value[0] == request.code:
                    context.abort(code, request.message)
        if request.wait_seconds:
            gone = threading.Event()
            context.add_callback(gone.set)
            if gone.wait(request.wait_seconds):
                say("caller gone")

    def Unary(self, request, context):
        self._begin(request, context)
        return echo_pb2.EchoResponse(payload=request.payload, size=len(request.payload))

    def ClientStream(self, requests, context):
        return echo_pb2.EchoResponse(size=sum(len(r.payload) for r in requests))

    def ServerStream(self, request, context):
        self._begin(request, context)
        for i in range(request.count):
            yield echo_pb2.EchoResponse(payload=request.payload, size=i)

    def Bidi(self, requests, context):
        for request in requests:
            yield echo_pb2.EchoResponse(payload=request.payload, size=len(request.payload))


def main():
    server = grpc.server(
        futures.ThreadPoolExecutor(16),
        options=[("grpc.max_receive_message_length", MAX), ("grpc.max_send_message_length", MAX)],
    )
    echo_pb2_grpc.add_EchoServicer_to_server(Echo(), server)
    names = [echo_pb2.DESCRIPTOR.services_by_name["Echo"].full_name, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(f"listening on 127.0.0.1:{port};")
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
