/* SPDX-License-Identifier: MIT */
/* Built without ISA-L: zlib has all levels. */
#include "format/codec/codec_igzip.h"

bool vd_igzip_has_level(unsigned level)
{
    (void)level;
    return false;
}

struct vd_igzip *vd_igzip_new(unsigned level)
{
    (void)level;
    return NULL;
}

void vd_igzip_free(struct vd_igzip *igzip)
{
    (void)igzip;
}

int vd_igzip_run(struct vd_igzip *igzip, const struct vd_coding *coding, size_t *encoded_bytes,
                 struct vdisk_error *err)
{
    (void)igzip;
    (void)coding;
    (void)encoded_bytes;
    return vd_err_set(err, ENOTSUP, "igzip: not built in");
}
