-- Verifies HS256 with the libcrypto that nginx has loaded already, through LuaJIT's FFI; counts in a shared dictionary.
local ffi = require 'ffi'
local json = require 'cjson.safe'
local base64url = require 'ngx.base64'.decode_base64url
ffi.cdef [[
typedef struct evp_md_st EVP_MD;
const EVP_MD *EVP_sha256(void);
unsigned char *HMAC(const EVP_MD *, const void *, int, const unsigned char *, size_t, unsigned char *, unsigned int *);
]]
local crypto, secret = ffi.C, '@SECRET@'
local sha256, out, length = crypto.EVP_sha256(), ffi.new 'unsigned char[64]', ffi.new 'unsigned int[1]'
local sub, find = string.sub, string.find
local M = {}

function M.check(limit)
  local header = ngx.var.http_authorization
  if not header or sub(header, 1, 7) ~= 'Bearer ' then return ngx.exit(401) end
  local first = find(header, '.', 8, true)
  local second = first and find(header, '.', first + 1, true)
  if not second then return ngx.exit(401) end
  local head = json.decode(base64url(sub(header, 8, first - 1)) or '')
  if not head or head.alg ~= 'HS256' then return ngx.exit(401) end
  local message, signature = sub(header, 8, second - 1), base64url(sub(header, second + 1))
  if not signature then return ngx.exit(401) end
  crypto.HMAC(sha256, secret, #secret, message, #message, out, length)
  if ffi.string(out, length[0]) ~= signature then return ngx.exit(401) end
  local claims = json.decode(base64url(sub(header, first + 1, second - 1)) or '')
  if not claims or claims.iss ~= 'bench' or not (claims.exp and claims.exp > ngx.time()) then return ngx.exit(401) end
  local used = ngx.shared.limits:incr(claims.tenant .. ':' .. ngx.time(), 1, 0, 2)
  if used and used > limit then return ngx.exit(429) end
  ngx.req.set_header('X-Tenant', claims.tenant)
end

return M
