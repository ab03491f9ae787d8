-- For wrk: one chat request after another, with the token of the shipped example.
--   wrk -t12 -c400 -d30s --script=test.lua http://localhost:3000/v1/chat/completions
-- BERRY_TOKEN and BERRY_MODEL in the environment take the place of the defaults. The demo upstream takes its time over each
-- answer, as a model would, so what this shows is how many requests are held at once, not how fast the gateway is: see bench/.
local token = os.getenv("BERRY_TOKEN") or "berry-admin-token-12345"
local model = os.getenv("BERRY_MODEL") or "gpt-4"

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. token
wrk.body = string.format('{"model": "%s", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}', model)

local failed = 0

function response(status)
  if status ~= 200 then
    failed = failed + 1
    if failed == 1 then
      print("first failure: status " .. status)
    end
  end
end
