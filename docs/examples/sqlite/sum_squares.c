/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sum_squares(x): an aggregate whose result does not depend on the order of the rows.
 */
#include "fastreg.h"

#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1

enum { ROWS = 256 };

/* Zero is empty, which is how SQLite begins. */
typedef struct {
    double rows[ROWS];
    int n;
    fastreg_state all;
} sum;

static void add_rows(sum *s)
{
    const ptrdiff_t n = s->n;
    const fastreg_array a = {.data = s->rows, .shape = &n, .ndim = 1, .dtype = FASTREG_F64};
    (void)fastreg_state_fill(&s->all, &a, 1, NULL);
    s->n = 0;
}

static void step(sqlite3_context *context, int count, sqlite3_value **values)
{
    (void)count;
    sum *const s = sqlite3_aggregate_context(context, sizeof *s);
    if (!s || sqlite3_value_type(values[0]) == SQLITE_NULL)
        return;
    s->rows[s->n++] = sqlite3_value_double(values[0]);
    if (s->n == ROWS)
        add_rows(s);
}

static void final(sqlite3_context *context)
{
    sum *const s = sqlite3_aggregate_context(context, sizeof *s);
    const double weight = 1.0;
    double value = 0.0;
    if (s) {
        add_rows(s);
        (void)fastreg_state_value(&s->all, NULL, &weight, 1, FASTREG_F64, &value);
    }
    sqlite3_result_double(context, value);
}

int sqlite3_sumsquares_init(sqlite3 *db, char **error, const sqlite3_api_routines *api)
{
    (void)error;
    SQLITE_EXTENSION_INIT2(api);
    return sqlite3_create_function(db, "sum_squares", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL,
                                   NULL, step, final);
}
