"""What schemathesis does not know by itself: how a module travels."""

import schemathesis


@schemathesis.serializer("application/wasm")
def wasm(context, value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    return b"\0asm\x01\0\0\0" + str(value).encode("utf-8", "surrogatepass")
