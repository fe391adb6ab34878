#!/bin/bash
# Whether `fanout run` in this container is well: 200 on /healthz. By bash
# alone, which the base has; another client would be most of the image.
set -eu
exec 3<>/dev/tcp/127.0.0.1/9464
printf 'GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r _ status _ <&3
[ "$status" = 200 ]
