/* What kernels need to read and write the slots of classes of Python in place.

   Knows no class: a kernel asks once where its slots lie, and looks only into objects of those classes. */

#include <Python.h>
#include <structmember.h>

/* Where a slot lies in the objects of its class; -1 of anything that is no such slot, or may not be written. */
static inline Py_ssize_t place_of_slot(PyObject *descriptor) {
    PyMemberDef *member;
    if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return -1;
    member = ((PyMemberDescrObject *)descriptor)->d_member;
    return member->type == T_OBJECT_EX && !(member->flags & READONLY) ? member->offset : -1;
}

#define AT(self, place) (*(PyObject **)((char *)(self) + (place)))

static inline void put_at(PyObject *self, Py_ssize_t place, PyObject *value) {
    PyObject *before = AT(self, place);
    Py_INCREF(value);
    AT(self, place) = value;
    Py_XDECREF(before);
}

/* A new object of a class, with every slot empty. */
static inline PyObject *bare(PyObject *type) {
    return ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
}
