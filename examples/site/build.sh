#!/bin/sh
# Puts the page together in dist/: names of scripts and styles carry the hash of their content, so that browsers may keep
# them for good, and version.json says which release this is.
set -eu

rm -rf dist
mkdir dist
cp src/favicon.svg dist/
cp src/index.html dist/index.html
for name in app.js style.css; do
    hash=$(sha256sum "src/$name" | cut -c1-16)
    hashed="${name%.*}.$hash.${name##*.}"
    cp "src/$name" "dist/$hashed"
    gzip -9 -k -n "dist/$hashed"
    sed -i "s/$name/$hashed/" dist/index.html
done
gzip -9 -k -n dist/index.html
cat > dist/version.json <<END
{ "service": "site", "release": "${AGENTD_RELEASE:-}", "commit": "${AGENTD_COMMIT:-}", "runtime": "static files" }
END
