//! What goes through pointers of the caller's: structures in both directions, and objects that the caller keeps for a while.

use std::{mem, ptr};

use crate::status::Failure;

/// Copies a structure that C filled, when its first field says that it is the structure of this library.
///
/// # Safety
/// `from` is null or points to a readable `usize`, and to a `T` when that is `size_of::<T>()`. `T` starts with that field.
pub(crate) unsafe fn read<T: Copy>(argument: &str, from: *const T) -> Result<T, Failure> {
    if from.is_null() {
        return Err(Failure::null(argument));
    }
    // SAFETY: not null, so a `usize` can be read (caller); C may have placed it anywhere.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    if size != mem::size_of::<T>() {
        let needed = mem::size_of::<T>();
        return Err(Failure::argument(format!("struct_size of {argument} is {size}; allowed: {needed}, its size")));
    }
    // SAFETY: of the size of a `T`, so it is one (caller).
    Ok(unsafe { from.read_unaligned() })
}

/// Fills a structure of the caller's.
///
/// # Safety
/// `to` is null or a place for a `T`, wherever C put it.
pub(crate) unsafe fn write<T: Copy>(argument: &str, to: *mut T, value: T) -> Result<(), Failure> {
    if to.is_null() {
        return Err(Failure::null(argument));
    }
    // SAFETY: a place (caller).
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// An object that the caller keeps.
///
/// # Safety
/// `object` is null or one that [`give`] gave, not destroyed before the reference's last use.
pub(crate) unsafe fn lent<'a, T>(argument: &str, object: *const T) -> Result<&'a T, Failure> {
    // SAFETY: an object if not null (caller).
    unsafe { object.as_ref() }.ok_or_else(|| Failure::null(argument))
}

/// Makes an object and gives it to the caller. Until there is one the caller has null, which may be destroyed.
///
/// # Safety
/// `place` is null or a place for a pointer, wherever C put it.
pub(crate) unsafe fn give<T>(
    argument: &str,
    place: *mut *mut T,
    make: impl FnOnce() -> Result<T, Failure>,
) -> Result<(), Failure> {
    // SAFETY: as the caller promises.
    unsafe {
        write(argument, place, ptr::null_mut())?;
        let made = Box::new(make()?);
        write(argument, place, Box::into_raw(made))
    }
}

/// Destroys what [`give`] gave, or nothing.
///
/// # Safety
/// `object` is null or was given, has not been destroyed, and no thread uses it.
pub(crate) unsafe fn destroy<T>(object: *mut T) {
    if !object.is_null() {
        // SAFETY: from a box, and nobody else's (caller).
        drop(unsafe { Box::from_raw(object) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure as C lays it out, at an odd address.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Sized {
        struct_size: usize,
        value: u64,
    }

    const SIZED: Sized = Sized { struct_size: mem::size_of::<Sized>(), value: 7 };

    #[test]
    fn structures_may_lie_anywhere() {
        let mut bytes = [0u64; 4];
        let place = bytes.as_mut_ptr().cast::<u8>().wrapping_add(1).cast::<Sized>();
        // SAFETY: a place of 32 bytes has room for 16 behind the first.
        unsafe {
            write("sized", place, SIZED).expect("a place");
            assert_eq!(read("sized", place.cast_const()).expect("its size"), SIZED);
            write("sized", place, Sized { struct_size: 3, ..SIZED }).expect("a place");
            let failure = read("sized", place.cast_const()).expect_err("another size");
            assert_eq!(failure.text(), "struct_size of sized is 3; allowed: 16, its size");
        }
    }

    #[test]
    fn null_is_named() {
        // SAFETY: null is allowed everywhere.
        let texts = unsafe {
            [
                read::<Sized>("a", ptr::null()).map(drop),
                write("b", ptr::null_mut(), SIZED),
                lent::<Sized>("c", ptr::null()).map(drop),
                give("d", ptr::null_mut(), || Ok(SIZED)),
            ]
        };
        let texts = texts.map(|found| found.expect_err("null").text().to_owned());
        assert_eq!(texts, ["a", "b", "c", "d"].map(|name| format!("{name} is a null pointer")));
    }

    #[test]
    fn an_object_is_given_lent_and_destroyed() {
        let (shared, mut object) = (std::rc::Rc::new(()), ptr::null_mut());
        // SAFETY: a place for a pointer; what is given is destroyed once, behind its last use.
        unsafe {
            give("object", &mut object, || Ok(shared.clone())).expect("made");
            assert!(std::rc::Rc::ptr_eq(lent("object", object).expect("there"), &shared));
            destroy(object);
            assert_eq!(std::rc::Rc::strong_count(&shared), 1);
            let failed = give("object", &mut object, || Err(Failure::null("other")));
            assert!(failed.is_err() && object.is_null(), "what failed leaves null behind");
            destroy(object);
        }
    }
}
