/* SPDX-License-Identifier: MIT */
#include "util/uuid.h"

#include <stdio.h>
#include <sys/random.h>

int vd_uuid_new(uint8_t uuid[VD_UUID_BYTES], struct vdisk_error *err)
{
    ssize_t got;
    do {
        got = getrandom(uuid, VD_UUID_BYTES, 0);
    } while (got < 0 && errno == EINTR);
    if (got != (ssize_t)VD_UUID_BYTES)
        return vd_err_errno(err, got < 0 ? errno : EIO, "no random bytes for a UUID");
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
    return 0;
}

const char *vd_uuid_text(const uint8_t uuid[VD_UUID_BYTES], char text[VD_UUID_TEXT_BYTES])
{
    const uint8_t *u = uuid;
    snprintf(text, VD_UUID_TEXT_BYTES,
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
             u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
             u[15]);
    return text;
}

bool vd_uuid_is_text(const char *text)
{
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    for (size_t i = 0; form[i]; i++) {
        bool is_digit = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
        if (form[i] == 'x' ? !is_digit : text[i] != form[i])
            return false;
    }
    return text[sizeof(form) - 1] == '\0';
}
