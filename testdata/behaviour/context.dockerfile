# The context of all cases, made by a build, so that it is the same everywhere. Its own context is testdata/archives.
FROM base AS made
WORKDIR /context
RUN echo a > a && echo b > b && echo c > c.txt && echo d > d.txt && echo 'with space' > 'with space' \
    && echo exec > exec && chmod 755 exec && echo private > private && chmod 600 private \
    && echo set > setuid && chmod 4755 setuid
RUN mkdir -p dir/sub dir/empty && echo one > dir/one && echo two > dir/two.txt && echo hidden > dir/.hidden \
    && echo three > dir/sub/three && echo four > dir/sub/four.txt && ln -s one dir/inner && ln -s ../a dir/up \
    && chmod 750 dir && chmod 700 dir/sub && chmod 1777 dir/empty
RUN mkdir -p other/sub && echo 'other one' > other/one && echo five > other/sub/five && chmod 711 other/sub
RUN ln -s a link && ln -s dir dirlink && ln -s nowhere dangling && ln -s /etc/passwd outside \
    && ln -s ../../../../etc/passwd upwards && mkdir -p odd && echo 1 > 'odd/a[1]' && echo star > 'odd/a*b' \
    && echo dollar > 'odd/$HOME' && echo back > 'odd/a\b'
RUN mkdir hard && echo hard > hard/first && ln hard/first hard/second
RUN mkdir -p deep/x/y/z && echo file > deep/x/y/z/file && echo top > deep/top && chmod 705 deep/x
RUN for name in one two; do mkdir -p pkg/$name/src pkg/$name/target \
      && echo $name > pkg/$name/src/main.c && echo $name > pkg/$name/README.md && echo big > pkg/$name/target/out; done
RUN mkdir -p /archive/inside /archive/deep/er && cd /archive && echo in > inside/file && chmod 640 inside/file \
    && chown 7:8 inside inside/file && echo deeper > deep/er/f && ln -s file inside/link && echo top > top \
    && tar -cf /context/archive.tar inside deep top && cp /context/archive.tar /context/looks-like-nothing \
    && gzip -c < /context/archive.tar > /context/archive.tar.gz && bzip2 -c < /context/archive.tar > /context/archive.tbz \
    && echo 'not an archive' > /context/fake.tar && gzip -c < /context/a > /context/a.gz \
    && tar -cf /context/implied.tar deep/er/f
COPY small.tar.xz small.tar.zst ./

FROM scratch
COPY --from=made /context /
