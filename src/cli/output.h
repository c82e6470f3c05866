/* SPDX-License-Identifier: MIT */
/* What is printed for programs: JSON. */
#ifndef VD_CLI_OUTPUT_H
#define VD_CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/size.h" /* whoever prints, prints sizes */
#include "util/uuid.h"

/* Prints @text, which anybody may have chosen, so that nothing in it looks like a line of ours. */
void vd_cli_print_line(const char *text);

/* JSON under construction; memory that runs out is noticed once, when it is printed. */
struct vd_json {
    json_t *root;
    bool has_failed;
};

/* A new array or object as the root of @json. */
void vd_json_begin_array(struct vd_json *json);
void vd_json_begin_object(struct vd_json *json);

/* A new object at the end of @array, or under @key of @object; usable even if memory ran out. */
json_t *vd_json_append_object(struct vd_json *json, json_t *array);
json_t *vd_json_put_object(struct vd_json *json, json_t *object, const char *key);
json_t *vd_json_put_array(struct vd_json *json, json_t *object, const char *key);

/* A file name or URL as it is shown: without user and password.  To be freed; NULL: no memory. */
char *vd_cli_shown_name(const char *text);

/* A file name or URL, as vd_cli_shown_name() makes it. */
void vd_json_put_name(struct vd_json *json, json_t *object, const char *key, const char *name);

void vd_json_put_u64(struct vd_json *json, json_t *object, const char *key, uint64_t value);
void vd_json_put_i64(struct vd_json *json, json_t *object, const char *key, int64_t value);
void vd_json_put_bool(struct vd_json *json, json_t *object, const char *key, bool value);
void vd_json_put_real(struct vd_json *json, json_t *object, const char *key, double value);
/* @text that is not UTF-8 (a file name may be anything) is put with U+FFFD for the odd bytes. */
void vd_json_put_text(struct vd_json *json, json_t *object, const char *key, const char *text);

/* @text, as vd_json_put_text() puts it, at the end of @array. */
void vd_json_append_text(struct vd_json *json, json_t *array, const char *text);

/* Prints the root with an indent of 4, and frees it.  Returns the exit status, 0 or 1. */
int vd_json_print(struct vd_json *json);

/* Frees the root unprinted. */
void vd_json_drop(struct vd_json *json);

#endif
