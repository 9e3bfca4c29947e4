"""Errors as OpenAI's interface words them."""

from starlette.responses import JSONResponse

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error",
         504: "server_error"}  # fmt: skip


class ApiError(Exception):
    """Ends a request with this HTTP status. `param` is the field at fault, `code` a word for programs, `retry_after` in s."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None,
                 retry_after: int | None = None):  # fmt: skip
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def body(self) -> dict:
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def bad_field(name: str, found: str, expected: str, code: str | None = None) -> ApiError:
    return ApiError(400, f'"{name}": found {found}, expected {expected}', name, code)
