#!/bin/bash
# Succeeds if `fanout run` in this container is healthy, that is, if /healthz
# returns 200. Uses only bash, which the base image has: another HTTP client
# would make up most of the image.
set -eu
exec 3<>/dev/tcp/127.0.0.1/9464
printf 'GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r _ status _ <&3
[ "$status" = 200 ]
