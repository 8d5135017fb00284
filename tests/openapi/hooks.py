"""What requests leave out."""

import schemathesis


@schemathesis.hook
def before_call(_context, case, _kwargs):
    # A subscription does not end.
    if case.headers:
        case.headers.pop("subscribe", None)
